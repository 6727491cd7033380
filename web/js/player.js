// Plays stretches of a recording and says where it is.

import { SAMPLE_RATE } from "./constants.js";

/** Shortest fade that takes away the click of a cut, in s. */
const FADE_S = 0.004;

export class Player {
  #turn = 0;
  #source = null;
  #time = 0;
  /** From the request on, not from the first sound. */
  playing = false;

  /**
   * @param {(time: number) => void} onTime at every frame of the screen while it plays, in s
   * @param {(time: number) => void} onStop where it came to an end
   */
  constructor(onTime, onStop) {
    Object.assign(this, { onTime, onStop });
  }

  /** @param {Float32Array} samples at SAMPLE_RATE */
  load(samples) {
    this.stop();
    this.samples = samples;
  }

  /** From `start` to `end` in s. */
  async play(start, end) {
    this.stop();
    const turn = this.#turn;
    const part = faded(this.samples.slice(Math.round(start * SAMPLE_RATE), Math.round(end * SAMPLE_RATE)));
    if (!part.length) return;
    this.playing = true;
    this.#time = start;
    this.context ??= new AudioContext();
    await this.context.resume();
    if (turn !== this.#turn) return;
    const buffer = this.context.createBuffer(1, part.length, SAMPLE_RATE);
    buffer.copyToChannel(part, 0);
    this.#source = new AudioBufferSourceNode(this.context, { buffer });
    this.#source.connect(this.context.destination);
    this.#source.onended = () => turn === this.#turn && this.#end(end);
    this.#source.start();
    this.#follow(turn, start - this.context.currentTime, end);
  }

  #follow(turn, offset, end) {
    if (turn !== this.#turn || !this.playing) return;
    this.#time = Math.min(offset + this.context.currentTime, end);
    this.onTime(this.#time);
    requestAnimationFrame(() => this.#follow(turn, offset, end));
  }

  #end(time) {
    this.#source = null;
    this.playing = false;
    this.onStop(time);
  }

  stop() {
    this.#turn += 1;
    if (!this.playing) return;
    this.#source?.stop();
    this.#end(this.#time);
  }
}

function faded(samples) {
  const fade = Math.min(Math.round(FADE_S * SAMPLE_RATE), samples.length >> 1);
  for (let i = 0; i < fade; i++) {
    samples[i] *= i / fade;
    samples[samples.length - 1 - i] *= i / fade;
  }
  return samples;
}

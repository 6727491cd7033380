// The microphone as samples, untouched: no compression, echo cancelling, noise suppression or gain control.

import { SAMPLE_RATE } from "./constants.js";
import { resample } from "./resample.js";

const PLAIN = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
/** Why the browser gave no microphone, by the name of its error. */
const REASONS = {
  NotAllowedError: "the microphone was not allowed; allow it in the address bar",
  NotFoundError: "there is no microphone",
  NotReadableError: "the microphone cannot be used; see whether another program holds it",
};
/** How long the last samples are waited for. */
const PATIENCE_MS = 1000;

export class Recorder {
  /** @param {(seconds: number, peak: number) => void} onSound how long it is, and the loudest of the latest samples */
  constructor(onSound) {
    this.onSound = onSound;
  }

  /** Ask for the microphone and begin. Throws an Error that says why that cannot be, and then holds no microphone. */
  async start() {
    if (!navigator.mediaDevices) throw new Error("the microphone needs a page from this machine or over https");
    this.chunks = [];
    this.length = 0;
    try {
      this.stream = await microphone();
      this.context = new AudioContext();
      this.rate = this.context.sampleRate;
      this.tap = await tapOf(this.context);
      this.tap.port.onmessage = ({ data }) => this.#take(data);
      this.context.createMediaStreamSource(this.stream).connect(this.tap);
    } catch (error) {
      await this.#release();
      throw error;
    }
  }

  #take(chunk) {
    if (!chunk) return this.onEnd();
    this.chunks.push(chunk);
    this.length += chunk.length;
    this.onSound(this.length / this.rate, chunk.reduce((peak, x) => Math.max(peak, Math.abs(x)), 0));
  }

  /** End, and give what was recorded, (N,) at SAMPLE_RATE. */
  async stop() {
    try {
      await this.#rest();
    } finally {
      await this.#release();
    }
    const samples = new Float32Array(this.length);
    let at = 0;
    for (const chunk of this.chunks) {
      samples.set(chunk, at);
      at += chunk.length;
    }
    return resample(samples, this.rate, SAMPLE_RATE);
  }

  /** Until the audio thread has handed over what it still holds. */
  #rest() {
    return new Promise((resolve) => {
      this.onEnd = resolve;
      setTimeout(resolve, PATIENCE_MS);
      this.tap.port.postMessage(null);
    });
  }

  async #release() {
    this.stream?.getTracks().forEach((track) => track.stop());
    await this.context?.close();
    this.stream = this.context = this.tap = undefined;
  }
}

async function microphone() {
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: PLAIN });
  } catch (error) {
    throw new Error(REASONS[error.name] ?? `the microphone cannot be used (${error.name})`);
  }
}

async function tapOf(context) {
  try {
    await context.audioWorklet.addModule(new URL("./recorder-worklet.js", import.meta.url));
  } catch {
    throw new Error("the recorder could not be loaded; load the page again");
  }
  return new AudioWorkletNode(context, "tap", { numberOfOutputs: 0 });
}

// The microphone as samples, untouched: no compression, echo cancelling, noise suppression or gain control.

import { resample } from "./audio.js";

export class Recorder {
  /** @param {(seconds: number, peak: number) => void} onSound how long it is, and the loudest of the latest samples */
  constructor(onSound) {
    this.onSound = onSound;
  }

  /** Ask for the microphone and begin. Throws an Error that says why there is none. */
  async start() {
    if (!navigator.mediaDevices) throw new Error("the microphone needs a page from this machine or over https");
    const plain = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    } catch (error) {
      const refused = error.name === "NotAllowedError";
      throw new Error(refused ? "the microphone was not allowed; allow it in the address bar" : "there is no microphone");
    }
    this.chunks = [];
    this.length = 0;
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule(new URL("./recorder-worklet.js", import.meta.url));
    const tap = new AudioWorkletNode(this.context, "tap", { numberOfOutputs: 0 });
    tap.port.onmessage = ({ data }) => this.#take(data);
    this.context.createMediaStreamSource(this.stream).connect(tap);
  }

  #take(chunk) {
    this.chunks.push(chunk);
    this.length += chunk.length;
    this.onSound(this.length / this.context.sampleRate, chunk.reduce((peak, x) => Math.max(peak, Math.abs(x)), 0));
  }

  /** End, and give what was heard, (N,) at SAMPLE_RATE. */
  async stop() {
    this.stream.getTracks().forEach((track) => track.stop());
    const rate = this.context.sampleRate;
    await this.context.close();
    const samples = new Float32Array(this.length);
    let at = 0;
    for (const chunk of this.chunks) {
      samples.set(chunk, at);
      at += chunk.length;
    }
    return resample(samples, rate);
  }
}

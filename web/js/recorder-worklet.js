// Runs on the audio thread: posts the microphone's samples in pieces of about a twentieth of a second.

class Tap extends AudioWorkletProcessor {
  #chunk = new Float32Array(2048);
  #filled = 0;

  process([[samples]]) {
    if (!samples) return true;
    this.#chunk.set(samples, this.#filled);
    this.#filled += samples.length;
    if (this.#filled + samples.length > this.#chunk.length) {
      this.port.postMessage(this.#chunk.slice(0, this.#filled));
      this.#filled = 0;
    }
    return true;
  }
}

registerProcessor("tap", Tap);

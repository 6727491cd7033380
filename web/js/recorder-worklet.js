// Runs on the audio thread: posts the microphone's samples in pieces of about a twentieth of a second. Any message ends
// it: the rest is posted, and then null.

class Tap extends AudioWorkletProcessor {
  #chunk = new Float32Array(2048);
  #filled = 0;
  #goesOn = true;

  constructor() {
    super();
    this.port.onmessage = () => {
      this.#post();
      this.port.postMessage(null);
      this.#goesOn = false;
    };
  }

  process([[samples]]) {
    if (!samples || !this.#goesOn) return this.#goesOn;
    this.#chunk.set(samples, this.#filled);
    this.#filled += samples.length;
    if (this.#filled + samples.length > this.#chunk.length) this.#post();
    return true;
  }

  #post() {
    if (this.#filled) this.port.postMessage(this.#chunk.slice(0, this.#filled));
    this.#filled = 0;
  }
}

registerProcessor("tap", Tap);

// The page's side of the worker: a promise for each job.

export class Engine {
  #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  #jobs = new Map();
  #sent = 0;

  constructor() {
    this.#worker.onmessage = ({ data: { job, progress, result, error } }) => {
      const waiting = this.#jobs.get(job);
      if (progress !== undefined) return waiting.onProgress(progress);
      this.#jobs.delete(job);
      return error === undefined ? waiting.resolve(result) : waiting.reject(new Error(error));
    };
    this.#worker.onerror = () => {
      for (const { reject } of this.#jobs.values()) reject(new Error("the recogniser stopped; load the page again"));
      this.#jobs.clear();
    };
  }

  #send(message, onProgress) {
    const job = (this.#sent += 1);
    return new Promise((resolve, reject) => {
      this.#jobs.set(job, { resolve, reject, onProgress });
      this.#worker.postMessage({ job, ...message });
    });
  }

  /** Load a model. @returns {Promise<{frameShift: number, numTokens: number}>} */
  open(model, tokens) {
    return this.#send({ open: { model, tokens } });
  }

  /** @returns {Promise<import("./recognizer.js").Transcript>} */
  transcribe(samples, onProgress) {
    return this.#send({ samples }, onProgress);
  }
}

// Recognition off the page's thread. Takes {job, open: {model, tokens}} or {job, samples}; answers {job, ...} with
// progress, and then result or error.

import { Recognizer } from "./recognizer.js";

const MOST_THREADS = 4;
let recognizer;

async function runtime() {
  try {
    const ort = await import("../vendor/ort.js");
    ort.env.wasm.wasmPaths = { wasm: new URL("../vendor/ort-wasm-simd-threaded.wasm", import.meta.url).href };
    // Threads need a page that its server isolates; couloir.web does, and any other server does without.
    ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
    ort.env.logLevel = "error";
    return ort;
  } catch {
    throw new Error("ONNX Runtime is not in vendor/ beside this page; run: python -m couloir.web --fetch-runtime");
  }
}

const jobs = {
  async open({ open: { model, tokens } }) {
    recognizer = await Recognizer.open(await runtime(), model, tokens);
    return { frameShift: recognizer.frameShift, numTokens: recognizer.pieces.length };
  },
  transcribe({ job, samples }) {
    return recognizer.transcribe(samples, (progress) => postMessage({ job, progress }));
  },
};

let last = Promise.resolve();
onmessage = ({ data }) => {
  last = last.then(async () => {
    try {
      postMessage({ job: data.job, result: await (data.open ? jobs.open(data) : jobs.transcribe(data)) });
    } catch (error) {
      postMessage({ job: data.job, error: error.message });
    }
  });
};

// A CTC model that holds its own features, in ONNX Runtime (couloir/inference/recognizer.py and onnx_backend.py).

import * as C from "./constants.js";
import { frontEndOf } from "./front_end.js";
import { geometryOf } from "./geometry.js";
import { metadataOf } from "./metadata.js";
import { round } from "./numbers.js";
import { ctcGreedy, meanBlank } from "./search.js";
import { confidenceOf, textOf, timedTokens } from "./transcript.js";
import { blankBetween, parseTokens } from "./vocabulary.js";
import { cut, join } from "./windows.js";

/**
 * @typedef {{text: string, tokens: import("./transcript.js").Token[], duration: number, confidence: number,
 *   frameShift: number}} Transcript  times in s, confidences 0 to 1
 */

export class Recognizer {
  /**
   * @param {object} ort ONNX Runtime
   * @param {Uint8Array} model the ONNX file
   * @param {string} tokens the text of its tokens.txt
   * @throws {Error} a damaged model, one of another kind or front end, or tokens that do not fit
   */
  static async open(ort, model, tokens) {
    const recognizer = new Recognizer();
    recognizer.ort = ort;
    recognizer.pieces = parseTokens(tokens);
    try {
      recognizer.session = await ort.InferenceSession.create(model);
    } catch {
      throw new Error("the model cannot be loaded by ONNX Runtime: it is damaged or no model");
    }
    const metadata = metadataOf(model);
    recognizer.frontEnd = frontEndOf(metadata);
    recognizer.geometry = geometryOf(metadata, recognizer.frontEnd);
    recognizer.#checkNames();
    await recognizer.#probe();
    return recognizer;
  }

  #checkNames() {
    const { inputNames, outputNames } = this.session;
    if (!inputNames.includes("audio") || !outputNames.includes("log_probs")) {
      const takes = inputNames.includes("x") ? `takes ${this.frontEnd.name} features` : `takes ${inputNames.slice(0, 3).join(", ")}`;
      throw new Error(`the model must be a CTC model with its front end, but ${takes}; export with --with-frontend True`);
    }
  }

  /** The distance of the output frames is the model's own: some give 50 a second, some 25. */
  async #probe() {
    const { factor, framesOf } = this.geometry;
    const { length, width } = await this.#encode(new Float32Array(this.frontEnd.samples(framesOf(C.PROBE_EMBEDDED))));
    this.frameShift = (factor * Math.round(C.PROBE_EMBEDDED / length) || 1) * this.frontEnd.stepS;
    if (width !== this.pieces.length) {
      throw new Error(`tokens.txt must have ${width} tokens as the model does, but has ${this.pieces.length}; choose its own`);
    }
  }

  /** (N,) samples -> frames (S, V) */
  async #encode(wave) {
    const fewest = this.geometry.minSamples;
    const padded = wave.length < fewest ? Float32Array.from({ length: fewest }, (_, i) => wave[i] ?? 0) : wave;
    const { Tensor } = this.ort;
    const found = await this.session.run({
      audio: new Tensor("float32", padded, [1, padded.length]),
      audio_lens: new Tensor("int64", BigInt64Array.of(BigInt(padded.length)), [1]),
    });
    const [, , width] = found.log_probs.dims;
    return { data: found.log_probs.data, width, length: Number(found.log_probs_len.data[0]) };
  }

  /**
   * @param {Float32Array} samples at SAMPLE_RATE, any number
   * @param {(share: number) => void} onProgress share of the recording that is done
   * @returns {Promise<Transcript>}
   */
  async transcribe(samples, onProgress = () => {}) {
    const { first, stepSamples } = this.geometry;
    const windows = cut(samples.length, C.WINDOW_S * C.SAMPLE_RATE, C.OVERLAP_S * C.SAMPLE_RATE, stepSamples);
    const parts = [];
    for (const { start, stop } of windows) {
      onProgress(parts.length / windows.length);
      parts.push(await this.#encode(samples.slice(start, stop)));
    }
    const offsets = windows.map(({ start }) => Math.round(start / C.SAMPLE_RATE / this.frameShift));
    const frames = join(parts, offsets, this.frameShift);
    const spans = ctcGreedy(frames);
    const duration = samples.length / C.SAMPLE_RATE;
    const between = blankBetween(this.pieces);
    const tokens = timedTokens(spans, this.pieces, this.frameShift, duration, first);
    return {
      text: textOf(tokens, between),
      tokens,
      between,
      duration: round(duration, 3),
      confidence: confidenceOf(spans, () => meanBlank(frames)),
      frameShift: this.frameShift,
    };
  }
}

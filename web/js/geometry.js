// Which feature frames a model's output frames stand for, in time and samples (couloir/models/geometry.py and
// couloir/inference/frame_times.py). Files say what is not as in icefall's models.

import { MAX_GEOMETRY_FRAMES, USUAL_GEOMETRY } from "./constants.js";

const PREFIX = "geometry_";

/**
 * @param {Object<string, string>} metadata of the model's file
 * @param {{stepS: number, stepSamples: number, firstS: number, fewest: (frames: number) => number}} frontEnd
 * @returns {{factor: number, first: number, minSamples: number, stepSamples: number,
 *   framesOf: (embedded: number) => number}} feature frames from one frame of the embedding to the next; where the first
 *   output frame begins in s; the fewest samples that give one; what windows begin at multiples of; the feature frames
 *   that give a number of frames of the embedding
 * @throws {Error} an entry that means nothing
 */
export function geometryOf(metadata, frontEnd) {
  const said = { ...USUAL_GEOMETRY };
  for (const [key, text] of Object.entries(metadata)) {
    if (!key.startsWith(PREFIX)) continue;
    const name = key.slice(PREFIX.length);
    if (!Object.hasOwn(USUAL_GEOMETRY, name)) throw new Error(`the model's file says ${key.slice(0, 60)}, which is not known`);
    const [value, lowest] = [Number(text.trim() || NaN), name === "embedding_margin" ? 0 : 1];
    if (!(Number.isInteger(value) && value >= lowest && value <= MAX_GEOMETRY_FRAMES)) {
      throw new Error(`${key} in the model's file must be a whole number from ${lowest} to ${MAX_GEOMETRY_FRAMES}, but is "${text.slice(0, 60)}"`);
    }
    said[name] = value;
  }
  const { embedding_factor: factor, embedding_margin: margin, window_step: step } = said;
  return {
    factor,
    first: frontEnd.firstS + (margin / 2) * frontEnd.stepS,
    minSamples: frontEnd.fewest(margin + factor),
    stepSamples: step * frontEnd.stepSamples,
    framesOf: (embedded) => margin + embedded * factor,
  };
}

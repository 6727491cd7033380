// The front ends of the models that the page runs (couloir/features/front_end.py). They are part of the model: the page
// has to know where their frames lie on the samples, and refuses a model whose front end it does not know.

import { SAMPLE_RATE } from "./constants.js";

/** Kaldi's windows by a file's settings: see `KaldiFraming` of couloir/features/framing.py. */
function windowsOf(setting, within) {
  const [ms, lengthMs] = [setting("frame_shift_ms", 10), setting("frame_length_ms", 25)];
  const [shift, size] = [ms, lengthMs].map((one) => Math.trunc((one * SAMPLE_RATE) / 1000));
  const margin = within ? 0 : Math.floor((size - shift) / 2);
  const fewest = (count) => (within ? (count - 1) * shift + size : count * shift - Math.floor(shift / 2));
  return { shift, stepS: ms / 1000, firstS: ((size - shift) / 2 - margin) / SAMPLE_RATE, fewest };
}

/** By name: what a file's settings begin with, and the geometry that they give. */
const FRONT_ENDS = {
  fbank: {
    prefix: "fbank_",
    geometry(setting) {
      const { shift, ...windows } = windowsOf(setting, false);
      return { ...windows, stepSamples: shift, samples: (frames) => frames * shift };
    },
  },
  lfr: {
    prefix: "lfr_",
    geometry(setting, metadata) {
      const { shift, stepS, firstS, fewest } = windowsOf(setting, metadata.lfr_snip_edges !== "False");
      const [stacked, every] = [setting("window_size", 7), setting("window_shift", 6)];
      const middle = stacked % 2 ? 0 : 0.5;
      return {
        stepS: stepS * every,
        stepSamples: shift * every,
        firstS: firstS + (middle + 0.5 - every / 2) * stepS,
        samples: (frames) => fewest(frames * every),
        fewest: (frames) => fewest((frames - 1) * every + 1),
      };
    },
  },
  log_mel: {
    prefix: "log_mel_",
    geometry() {
      const samples = (frames) => frames * 160;
      return { stepS: 0.01, stepSamples: 160, firstS: -0.005, samples, fewest: samples };
    },
  },
};

/**
 * @param {Object<string, string>} metadata of the model's file
 * @returns {{name: string, stepS: number, stepSamples: number, firstS: number, samples: (frames: number) => number,
 *   fewest: (frames: number) => number}} distance of its frames in s and in samples, where the first one begins in s, the
 *   samples that a number of frames stands for, and the fewest that have it
 * @throws {Error} one that the page does not know, or with audio of another rate
 */
export function frontEndOf(metadata) {
  const name = metadata.front_end ?? ("lfr_window_size" in metadata ? "lfr" : "fbank");
  if (!Object.hasOwn(FRONT_ENDS, name)) {
    const known = Object.keys(FRONT_ENDS).join(", ");
    throw new Error(`the model's front end must be one of ${known}, but is "${name.slice(0, 60)}"`);
  }
  const { prefix, geometry } = FRONT_ENDS[name];
  const number = (key, usual) => {
    const value = key in metadata ? Number(metadata[key]) : usual;
    if (!(value > 0 && value < Infinity)) throw new Error(`${key} in the model's file must be a number above 0, but is "${metadata[key]}"`);
    return value;
  };
  for (const key of ["sample_rate", `${prefix}sample_rate`]) {
    const rate = number(key, SAMPLE_RATE);
    if (rate !== SAMPLE_RATE) throw new Error(`the model must be for audio at ${SAMPLE_RATE} Hz, but is for ${rate} Hz`);
  }
  return { name, ...geometry((key, usual) => number(prefix + key, usual), metadata) };
}

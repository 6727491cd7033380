// The front ends of the models that the page runs (couloir/features/front_end.py). They are part of the model: the page
// has to know where their frames lie on the samples, and refuses a model whose front end it does not know.

import { SAMPLE_RATE } from "./constants.js";

/** By name: what a file's settings begin with, and {stepS, samples, fewest} of settings that are read by a function. */
const FRONT_ENDS = {
  fbank: {
    prefix: "fbank_",
    geometry(setting) {
      const ms = setting("frame_shift_ms", 10);
      const shift = Math.trunc((ms * SAMPLE_RATE) / 1000);
      const fewest = (frames) => frames * shift - Math.floor(shift / 2);
      return { stepS: ms / 1000, samples: (frames) => frames * shift, fewest };
    },
  },
  lfr: {
    prefix: "lfr_",
    geometry(setting) {
      const [ms, lengthMs, every] = [setting("frame_shift_ms", 10), setting("frame_length_ms", 25), setting("window_shift", 6)];
      const [shift, window] = [ms, lengthMs].map((one) => Math.trunc((one * SAMPLE_RATE) / 1000));
      const ofWindows = (count) => (count - 1) * shift + window;
      const fewest = (frames) => ofWindows((frames - 1) * every + 1);
      return { stepS: (ms * every) / 1000, samples: (frames) => ofWindows(frames * every), fewest };
    },
  },
  log_mel: {
    prefix: "log_mel_",
    geometry: () => ({ stepS: 0.01, samples: (frames) => frames * 160, fewest: (frames) => frames * 160 }),
  },
};

/**
 * @param {Object<string, string>} metadata of the model's file
 * @returns {{name: string, stepS: number, samples: (frames: number) => number, fewest: (frames: number) => number}}
 *   distance of its frames in s, the samples that so many stand for, and the fewest that have so many
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
  return { name, ...geometry((key, usual) => number(prefix + key, usual)) };
}

// Long recordings in overlapping windows, and their output frames joined again (couloir/inference/windows.py).

import { NEIGHBOURHOOD_S, STEP_SAMPLES } from "./constants.js";

/** @typedef {import("./search.js").Frames} Frames */

/**
 * Windows of equal hop that cover a recording; one, if it is no longer than `longest`. They begin at
 * multiples of `step`. All in samples.
 * @returns {{start: number, stop: number}[]}
 */
export function cut(numSamples, longest, overlap, step = STEP_SAMPLES) {
  if (numSamples <= longest) return [{ start: 0, stop: numSamples }];
  const room = Math.max(Math.floor((longest - overlap) / step), 1) * step;
  const count = Math.ceil((numSamples - longest) / room) + 1;
  const even = Math.ceil(Math.ceil((numSamples - longest) / (count - 1)) / step) * step;
  const hop = Math.max(Math.min(even, room), step);
  return Array.from({ length: count }, (_, i) => ({
    start: i * hop,
    stop: Math.min(i * hop + longest, numSamples),
  }));
}

/**
 * The frames of overlapping windows as one recording's: each seam lies in the middle half of the overlap, at the place
 * around which both windows agree best.
 * @param {Frames[]} parts
 * @param {number[]} offsets index in the whole of each part's first frame
 * @param {number} frameShift in s
 * @returns {Frames}
 */
export function join(parts, offsets, frameShift) {
  const { width } = parts[0];
  const pieces = [];
  let begin = 0;
  parts.forEach((part, i) => {
    let stop = offsets[i] + part.length;
    if (i + 1 < parts.length) {
      const shared = stop - offsets[i + 1];
      stop = offsets[i + 1] + seam(part, parts[i + 1], shared, Math.round(NEIGHBOURHOOD_S / frameShift));
    }
    pieces.push(part.data.subarray((begin - offsets[i]) * width, (stop - offsets[i]) * width));
    begin = stop;
  });
  const data = new Float32Array(begin * width);
  let at = 0;
  for (const piece of pieces) {
    data.set(piece, at);
    at += piece.length;
  }
  return { data, width, length: begin };
}

/** The frame of the overlap from which on the right window's output is taken. */
function seam(left, right, shared, around) {
  const { width } = left;
  const skipped = (left.length - shared) * width;
  const distance = Array.from({ length: shared }, (_, frame) => {
    let sum = 0;
    for (let i = frame * width; i < (frame + 1) * width; i++) {
      sum += (Math.exp(left.data[skipped + i]) - Math.exp(right.data[i])) ** 2;
    }
    return sum;
  });
  const quarter = Math.floor(shared / 4);
  const best = { frame: quarter, cost: Infinity, middle: Infinity };
  for (let frame = quarter; frame < Math.max(shared - quarter, quarter + 1); frame++) {
    let cost = 0;
    for (let i = Math.max(frame - around, 0); i <= Math.min(frame + around, shared - 1); i++) cost += distance[i];
    const middle = Math.abs(frame - shared / 2);
    if (cost < best.cost || (cost === best.cost && middle < best.middle)) Object.assign(best, { frame, cost, middle });
  }
  return best.frame;
}

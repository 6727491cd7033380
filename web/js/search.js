// Greedy CTC search (couloir/inference/search.py).

/**
 * @typedef {{data: Float32Array, width: number, length: number}} Frames  (S, V) log-probabilities, row by row
 * @typedef {{token: number, start: number, end: number, confidence: number}} Span  frames of a token's run
 */

/**
 * The best token of each frame, repetitions collapsed, blanks dropped.
 * @param {Frames} frames
 * @returns {Span[]} each token with its probability at the strongest frame of its run
 */
export function ctcGreedy({ data, width, length }, blank = 0) {
  const spans = [];
  let run = null;
  for (let frame = 0; frame < length; frame++) {
    const row = data.subarray(frame * width, (frame + 1) * width);
    let token = 0;
    for (let i = 1; i < width; i++) if (row[i] > row[token]) token = i;
    if (run?.token === token) {
      run.end = frame + 1;
      run.best = Math.max(run.best, row[token]);
    } else {
      run = { token, start: frame, end: frame + 1, best: row[token] };
      spans.push(run);
    }
  }
  return spans
    .filter(({ token }) => token !== blank)
    .map(({ best, ...span }) => ({ ...span, confidence: Math.exp(best) }));
}

/** Mean probability of blank (0 to 1), which is the confidence in a transcript without tokens. */
export function meanBlank({ data, width, length }, blank = 0) {
  let sum = 0;
  for (let frame = 0; frame < length; frame++) sum += Math.exp(data[frame * width + blank]);
  return sum / length;
}

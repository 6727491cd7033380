// Praat's long text format, as couloir/inference/formats.py writes it.

import { asFloat, round } from "./numbers.js";
import { phonesOf, wordsOf } from "./transcript.js";

/** @typedef {import("./transcript.js").Token} Token */

/** The tiers of a transcript: words where the model marks them, and phones. */
export function tiersOf(tokens) {
  const words = wordsOf(tokens);
  return { ...(words.length && { words }), phones: phonesOf(tokens) };
}

/**
 * Interval tiers as a TextGrid; the time between intervals is filled with empty ones.
 * @param {Record<string, Token[]>} tiers intervals in order of time
 * @param {number} seconds end of every tier
 */
export function textGrid(tiers, seconds) {
  const duration = Math.max(round(seconds, 3), 0.001); // Praat refuses one of 0
  const lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", `xmax = ${asFloat(duration)}`];
  lines.push("tiers? <exists>", `size = ${Object.keys(tiers).length}`, "item []:");
  Object.entries(tiers).forEach(([name, tokens], tier) => {
    const intervals = filled(tokens, duration);
    lines.push(`    item [${tier + 1}]:`, '        class = "IntervalTier"', `        name = "${name}"`);
    lines.push("        xmin = 0", `        xmax = ${asFloat(duration)}`);
    lines.push(`        intervals: size = ${intervals.length}`);
    intervals.forEach(([start, end, label], i) => {
      lines.push(`        intervals [${i + 1}]:`, `            xmin = ${asFloat(start)}`);
      lines.push(`            xmax = ${asFloat(end)}`, `            text = "${label.replaceAll('"', '""')}"`);
    });
  });
  return lines.join("\n") + "\n";
}

/** Intervals [start, end, label] that cover 0 to `duration`; Praat refuses gaps, overlaps and empty ones. */
function filled(tokens, duration) {
  const intervals = [];
  let at = 0;
  for (const token of tokens) {
    const start = Math.max(token.start, at);
    const end = Math.min(token.end, duration);
    if (end <= start) continue;
    if (start > at) intervals.push([at, start, ""]);
    intervals.push([start, end, token.symbol]);
    at = end;
  }
  if (at < duration || !tokens.length) intervals.push([at, duration, ""]);
  return intervals;
}

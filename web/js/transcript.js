// Symbols with times and confidences (couloir/inference/transcript.py).

import * as C from "./constants.js";
import { round, roundArray } from "./numbers.js";
import { surfaces } from "./vocabulary.js";

/**
 * @typedef {{symbol: string, start: number, end: number, confidence: number}} Token  times in s; a leading space in
 *   the symbol where a word begins
 */

/**
 * Tokens with times from frames.
 * @param {import("./search.js").Span[]} spans
 * @param {string[]} pieces
 * @param {number} frameShift in s
 * @param {number} duration in s, the latest time
 * @param {number} first where the first frame begins, in s
 * @returns {Token[]}
 */
export function timedTokens(spans, pieces, frameShift, duration, first = C.FRONT_END_DELAY_S) {
  const start = spans.map((span) => first + frameShift * span.start);
  const end = spans.map((span) => first + frameShift * span.end);
  for (let i = 0; i + 1 < spans.length; i++) {
    const gap = Math.max(start[i + 1] - end[i], 0);
    const touching = gap <= C.LONGEST_BRIDGE_S;
    end[i] += touching ? C.BLANKS_OF_FIRST * gap : C.REACH_AFTER_S;
    start[i + 1] = touching ? end[i] : start[i + 1] - C.REACH_BEFORE_S;
  }
  if (spans.length) {
    start[0] -= C.REACH_BEFORE_S;
    end[spans.length - 1] += C.REACH_AFTER_S;
  }
  const inside = (time) => roundArray(Math.min(Math.max(time, 0), duration), 3);
  const symbols = surfaces(spans.map(({ token }) => pieces[token]));
  return spans.map(({ confidence }, i) => ({
    symbol: symbols[i],
    start: inside(start[i]),
    end: inside(end[i]),
    confidence: round(confidence, 4),
  }));
}

/** The tokens' text, with what stands between two of them (`blankBetween`). */
export const textOf = (tokens, between = "") =>
  tokens.map(({ symbol }) => symbol).filter((symbol) => symbol).join(between).trim();

/** Mean over the spans, 0 to 1, or what `ofSilence` says when there are none. */
export function confidenceOf(spans, ofSilence) {
  const mean = spans.length ? spans.reduce((sum, span) => sum + span.confidence, 0) / spans.length : ofSilence();
  return round(mean, 4);
}

/** Modifier letters, length marks and combining diacritics, which belong to the letter before them. */
export const isMark = (symbol) => /^[\u02b0-\u036f\u1d2c-\u1d6a\u1d9b-\u1dff]+$/.test(symbol);

const merged = (tokens, symbol) => ({
  symbol,
  start: tokens[0].start,
  end: tokens.at(-1).end,
  confidence: Math.min(...tokens.map((token) => token.confidence)),
});

/** The tokens with diacritics and length marks joined to the letter before them, and word boundaries dropped. */
export function phonesOf(tokens) {
  const joined = [];
  for (const token of tokens) {
    const symbol = token.symbol.trim();
    if (!symbol) continue;
    if (joined.length && isMark(symbol)) {
      const last = joined.pop();
      joined.push(merged([last, token], last.symbol + symbol));
    } else {
      joined.push({ ...token, symbol });
    }
  }
  return joined;
}

/** The words of a model whose pieces mark where a word begins; otherwise none. */
export function wordsOf(tokens) {
  const begins = ({ symbol }) => symbol.startsWith(" ");
  if (!tokens.some(begins)) return [];
  const groups = [];
  for (const token of tokens) {
    if (begins(token) || (token.symbol && !groups.length)) groups.push([]);
    if (token.symbol) groups.at(-1).push(token);
  }
  return groups
    .map((group) => merged(group, group.map(({ symbol }) => symbol).join("").trim()))
    .filter(({ symbol }) => symbol);
}

/** For each phone the spaces before it and its letters, as they stand in the text. */
export function writtenPhones(tokens, between = "") {
  const written = [];
  let space = "";
  for (const { symbol } of tokens) {
    const letters = symbol.trim();
    const at = letters ? symbol.indexOf(letters) : symbol.length;
    space += symbol.slice(0, at);
    if (!letters) continue;
    if (written.length && isMark(letters)) written.at(-1).letters += space + letters;
    else written.push({ space: written.length ? space || between : "", letters });
    space = symbol.slice(at + letters.length);
  }
  return written;
}

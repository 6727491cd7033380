// Runs the page's modules on the cases of test_modules.py: JSON in, JSON out.

import { readFileSync } from "node:fs";
import * as constants from "../../web/js/constants.js";
import { powerSpectrum } from "../../web/js/fft.js";
import { frontEndOf } from "../../web/js/front_end.js";
import { geometryOf } from "../../web/js/geometry.js";
import { headOf } from "../../web/js/heads.js";
import { metadataOf } from "../../web/js/metadata.js";
import { hostElsewhere } from "../../web/js/model.js";
import { resample } from "../../web/js/resample.js";
import { ctcGreedy, meanBlank } from "../../web/js/search.js";
import { textGrid, tiersOf } from "../../web/js/textgrid.js";
import { confidenceOf, phonesOf, textOf, timedTokens, wordsOf, writtenPhones } from "../../web/js/transcript.js";
import { blankBetween, parseTokens, surface, surfaces } from "../../web/js/vocabulary.js";
import { encodeWav, parseWav } from "../../web/js/wav.js";
import { cut, join } from "../../web/js/windows.js";

const framesOf = (rows) => ({ data: Float32Array.from(rows.flat()), width: rows[0].length, length: rows.length });
const bytesOf = (path) => Uint8Array.from(readFileSync(path)).buffer;

const answers = {
  constants: () => constants,
  cut: ([samples, longest, overlap]) => cut(samples, longest, overlap).map(({ start, stop }) => [start, stop]),
  join: ({ parts, offsets, shift }) => [...join(parts.map(framesOf), offsets, shift).data],
  transcript: ({ frames, pieces, shift, duration }) => {
    const spans = ctcGreedy(framesOf(frames));
    const tokens = timedTokens(spans, pieces, shift, duration);
    const confidence = confidenceOf(spans, () => meanBlank(framesOf(frames)));
    const between = blankBetween(pieces);
    const written = writtenPhones(tokens, between).map(({ space, letters }) => space + letters);
    const files = { textGrid: textGrid(tiersOf(tokens), duration) };
    return { tokens, text: textOf(tokens, between), confidence, written, phones: phonesOf(tokens).length, ...files };
  },
  metadata: (path) => metadataOf(new Uint8Array(bytesOf(path))),
  frontEnd: ({ metadata, frames }) => {
    const { name, stepS, samples } = frontEndOf(metadata);
    return { name, stepS, count: samples(frames) };
  },
  geometry: (metadata) => {
    const { framesOf, ...times } = geometryOf(metadata, frontEndOf(metadata));
    return { ...times, probe: framesOf(constants.PROBE_EMBEDDED) };
  },
  host: (source) => hostElsewhere(source, "http://127.0.0.1:8000/index.html"),
  words: wordsOf,
  between: blankBetween,
  tokens: (text) => parseTokens(text),
  surfaces: (pieces) => [surfaces(pieces), pieces.map(surface)],
  wav: (path) => parseWav(bytesOf(path)),
  head: (path) => headOf(bytesOf(path)),
  resampled: async ([samples, rate]) => [...(await resample(Float32Array.from(samples), rate, 16000))],
  encoded: (samples) => [...new Uint8Array(encodeWav(Float32Array.from(samples), 16000))],
  power: (frame) => [...powerSpectrum(512)(Float32Array.from(frame))],
};

const attempt = async ({ what, given }) => {
  try {
    const value = await answers[what](given);
    return { value: value?.samples ? { ...value, samples: [...value.samples] } : value };
  } catch (error) {
    return { error: error.message };
  }
};

const cases = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(await Promise.all(cases.map(attempt))));

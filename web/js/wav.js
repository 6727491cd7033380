// RIFF wave files: the samples of uncompressed ones exactly as libsndfile gives them to Python, and writing them.

import { MISSING_ALLOWED_S } from "./constants.js";

const PCM = 1;
const IEEE_FLOAT = 3;
const EXTENSIBLE = 0xfffe;
/** Programs that write into a pipe declare this many bytes or more. */
const UNKNOWN_SIZE = 2 ** 31 - 2 ** 16;

const int24 = (view, at) => (view.getInt8(at + 2) << 16) | view.getUint16(at, true);
/** Format and bits -> how a sample is read. */
const READERS = {
  [`${PCM}-8`]: (view, at) => (view.getUint8(at) - 128) / 128,
  [`${PCM}-16`]: (view, at) => view.getInt16(at, true) / 2 ** 15,
  [`${PCM}-24`]: (view, at) => int24(view, at) / 2 ** 23,
  [`${PCM}-32`]: (view, at) => view.getInt32(at, true) / 2 ** 31,
  [`${IEEE_FLOAT}-32`]: (view, at) => view.getFloat32(at, true),
  [`${IEEE_FLOAT}-64`]: (view, at) => view.getFloat64(at, true),
};

const tag = (view, at) => String.fromCharCode(...new Uint8Array(view.buffer, at, 4));

/** The chunks of a RIFF file by name: where each begins and its declared size. */
function chunksOf(view) {
  const chunks = {};
  for (let at = 12; at + 8 <= view.byteLength; ) {
    const size = view.getUint32(at + 4, true);
    chunks[tag(view, at)] ??= { start: at + 8, size };
    at += 8 + size + (size % 2);
  }
  return chunks;
}

/**
 * An uncompressed wave file; null for anything else.
 * @param {ArrayBuffer} bytes
 * @returns {{samples: Float32Array, rate: number} | null} mean over the channels
 * @throws {Error} the file is cut short
 */
export function parseWav(bytes) {
  const view = new DataView(bytes);
  if (bytes.byteLength < 12 || tag(view, 0) !== "RIFF" || tag(view, 8) !== "WAVE") return null;
  const { "fmt ": head, data } = chunksOf(view);
  if (!head || !data || head.size < 16 || head.start + head.size > bytes.byteLength) return null;
  const [coded, channels] = [view.getUint16(head.start, true), view.getUint16(head.start + 2, true)];
  const [rate, bits] = [view.getUint32(head.start + 4, true), view.getUint16(head.start + 14, true)];
  const format = coded === EXTENSIBLE && head.size >= 26 ? view.getUint16(head.start + 24, true) : coded;
  const read = READERS[`${format}-${bits}`];
  if (!read || !channels || !rate) return null;

  const step = bits / 8;
  const count = (size) => Math.floor(size / step / channels);
  const [there, promised] = [count(Math.min(data.size, bytes.byteLength - data.start)), count(data.size)];
  if (data.size < UNKNOWN_SIZE && promised - there > MISSING_ALLOWED_S * rate) {
    throw new Error(`is truncated: it holds ${(there / rate).toFixed(2)} s of ${(promised / rate).toFixed(2)} s`);
  }
  const samples = new Float32Array(there);
  for (let i = 0, at = data.start; i < there; i++) {
    let sum = 0;
    for (let channel = 0; channel < channels; channel++, at += step) sum = Math.fround(sum + Math.fround(read(view, at)));
    samples[i] = sum / channels;
  }
  return { samples, rate };
}

/** Samples as a 16-bit mono wave file. */
export function encodeWav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, PCM, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => {
    view.setInt16(44 + 2 * i, Math.max(-32768, Math.min(32767, Math.round(sample * 32768))), true);
  });
  return view.buffer;
}

// RIFF wave files: the samples of uncompressed ones exactly as libsndfile gives them to Python, and writing them.

import { mono } from "./channels.js";
import { MISSING_ALLOWED_S } from "./constants.js";

const PCM = 1;
const IEEE_FLOAT = 3;
const EXTENSIBLE = 0xfffe;
/** Programs that write into a pipe declare 2 or 4 GB, give or take that many bytes. */
const STREAMED_WITHIN = 2 ** 16;
/** That many bytes behind the declared ones, which are no chunk, are more samples. */
const LEAST_HIDDEN = 4096;

const int24 = (view, at) => (view.getInt8(at + 2) << 16) | view.getUint16(at, true);
/** Format and bytes -> how a sample is read; fewer bits than its bytes have lie in the upper ones. */
const READERS = {
  [`${PCM}-1`]: (view, at) => (view.getUint8(at) - 128) / 128,
  [`${PCM}-2`]: (view, at) => view.getInt16(at, true) / 2 ** 15,
  [`${PCM}-3`]: (view, at) => int24(view, at) / 2 ** 23,
  [`${PCM}-4`]: (view, at) => view.getInt32(at, true) / 2 ** 31,
  [`${IEEE_FLOAT}-4`]: (view, at) => view.getFloat32(at, true),
  [`${IEEE_FLOAT}-8`]: (view, at) => view.getFloat64(at, true),
};

const tag = (view, at) => (at + 4 > view.byteLength ? "" : String.fromCharCode(...new Uint8Array(view.buffer, at, 4)));

const isChunk = (view, at) =>
  at + 8 <= view.byteLength && /^[\w ()-]{4}$/.test(tag(view, at)) && view.getUint32(at + 4, true) <= view.byteLength - at - 7;

const isWave = (view, at) => ["RIFF", "RF64", "BW64"].includes(tag(view, at)) && tag(view, at + 8) === "WAVE";

/** The chunks of a RIFF file by name, up to its samples: where each begins and its declared size. */
function chunksOf(view) {
  const chunks = {};
  for (let at = 12; at + 8 <= view.byteLength && !chunks.data; ) {
    const size = view.getUint32(at + 4, true);
    chunks[tag(view, at)] ??= { start: at + 8, size };
    at += 8 + size;
    // Some writers forget to pad to an even size.
    if (size % 2 && !(at < view.byteLength && view.getUint8(at) && isChunk(view, at))) at++;
  }
  return chunks;
}

/** How many bytes of samples the header promises; null where it does not know. */
function promisedSize(view, { data, ds64 }) {
  const room = view.byteLength - data.start;
  let { size } = data;
  if (size === 2 ** 32 - 1 && ds64?.size >= 16) size = Number(view.getBigUint64(ds64.start + 8, true)) || null;
  else if (Math.min(Math.abs(size - 2 ** 31), Math.abs(size - 2 ** 32)) <= STREAMED_WITHIN) size = null;
  return size !== null && size <= room && hidesMore(view, data.start + size) ? null : size;
}

/** Whether what is behind the declared samples is more of them: a recorder was stopped before it wrote how many. */
function hidesMore(view, at) {
  for (const start of [at, at + (at % 2)]) {
    const isTag = ["ID3", "TAG", "APE"].includes(tag(view, start).slice(0, 3));
    if (isChunk(view, start) || isWave(view, start) || isTag) return false;
  }
  const rest = new Uint8Array(view.buffer, at, Math.min(LEAST_HIDDEN, view.byteLength - at));
  return rest.length === LEAST_HIDDEN && rest.some((byte) => byte);
}

/**
 * An uncompressed wave file; null for anything else.
 * @param {ArrayBuffer} bytes
 * @returns {{samples: Float32Array, rate: number} | null} its channels as one
 * @throws {Error} the file is cut short
 */
export function parseWav(bytes) {
  const view = new DataView(bytes);
  if (!isWave(view, 0)) return null;
  const chunks = chunksOf(view);
  const { "fmt ": head, data } = chunks;
  if (!head || !data || head.size < 16 || head.start + head.size > bytes.byteLength) return null;
  const [coded, channels] = [view.getUint16(head.start, true), view.getUint16(head.start + 2, true)];
  const rate = view.getUint32(head.start + 4, true);
  const [align, bits] = [view.getUint16(head.start + 12, true), view.getUint16(head.start + 14, true)];
  const format = coded === EXTENSIBLE && head.size >= 26 ? view.getUint16(head.start + 24, true) : coded;
  const step = Math.max(Math.ceil(bits / 8), Math.floor(align / channels) || 0);
  const read = READERS[`${format}-${step}`];
  if (!read || !channels || !rate) return null;

  const count = (size) => Math.floor(size / step / channels);
  const [room, size] = [bytes.byteLength - data.start, promisedSize(view, chunks)];
  const [there, promised] = [count(Math.min(size ?? room, room)), count(size ?? room)];
  if (promised - there > MISSING_ALLOWED_S * rate) {
    throw new Error(`is truncated: it holds ${(there / rate).toFixed(2)} s of ${(promised / rate).toFixed(2)} s`);
  }
  const parts = Array.from({ length: channels }, () => new Float32Array(there));
  for (let i = 0, at = data.start; i < there; i++) {
    for (let channel = 0; channel < channels; channel++, at += step) parts[channel][i] = read(view, at);
  }
  const samples = mono(parts, rate);
  return size === null ? { samples, rate } : joined({ samples, rate }, bytes, data.start + size);
}

/** Where another file begins behind the chunks that follow the samples; 0 where none does. */
function nextWave(view, at) {
  for (;;) {
    const start = [at, at + (at % 2)].find((start) => isWave(view, start) || isChunk(view, start));
    if (start === undefined || isWave(view, start)) return start ?? 0;
    at = start + 8 + view.getUint32(start + 4, true);
  }
}

/** A recording and the one that another file, joined to its end at `at`, holds. */
function joined(first, bytes, at) {
  const start = nextWave(new DataView(bytes), at);
  const next = start && parseWav(bytes.slice(start));
  if (!next) return first;
  if (next.rate !== first.rate) throw new Error(`holds recordings of ${first.rate} and ${next.rate} Hz`);
  const samples = new Float32Array(first.samples.length + next.samples.length);
  samples.set(first.samples);
  samples.set(next.samples, first.samples.length);
  return { samples, rate: first.rate };
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

// What is drawn of a recording: the extremes of its samples, and a broad-band spectrogram. Only what is in view is
// computed, one column per pixel, so the length of the recording does not matter.

import { SAMPLE_RATE } from "./constants.js";
import { powerSpectrum } from "./fft.js";

/** Highest frequency of the spectrogram in Hz. */
export const TOP_HZ = SAMPLE_RATE / 2;
const FFT_SIZE = 512;
const BINS = FFT_SIZE / 2;
/** 10 ms under a Gaussian: formants and bursts show, single harmonics do not. */
const WINDOW = 160;
const PRE_EMPHASIS = 0.97;
const RANGE_DB = 55;
const CONTRAST = 1.2;
/** The spectrogram is drawn and kept in pieces of that many columns, so that scrolling computes only what is new. */
export const TILE_PX = 128;
const MOST_TILES = 100;
const BLOCK = 256;
const REFERENCE_COLUMNS = 500;

const gaussian = Float32Array.from({ length: WINDOW }, (_, i) => Math.exp(-12 * ((i - (WINDOW - 1) / 2) / (WINDOW - 1)) ** 2));

export class Sound {
  #power = powerSpectrum(FFT_SIZE);
  #frame = new Float32Array(WINDOW);

  /** @param {Float32Array} samples at SAMPLE_RATE */
  constructor(samples) {
    this.samples = samples;
    this.duration = samples.length / SAMPLE_RATE;
    this.tiles = new Map();
    this.blocks = Array.from({ length: Math.ceil(samples.length / BLOCK) }, (_, i) => {
      return extremes(samples, i * BLOCK, (i + 1) * BLOCK);
    });
    this.peak = this.blocks.reduce((peak, [low, high]) => Math.max(peak, -low, high), 1e-3);
    this.loudest = 1e-9;
    for (let i = 0; i < REFERENCE_COLUMNS; i++) {
      const power = this.#column(((i + 0.5) / REFERENCE_COLUMNS) * samples.length);
      for (const value of power) this.loudest = Math.max(this.loudest, value);
    }
  }

  /** Lowest and highest sample from `start` to `end` in s. */
  extremes(start, end) {
    const [first, last] = [Math.floor(start * SAMPLE_RATE), Math.ceil(end * SAMPLE_RATE)];
    if (last - first < 2 * BLOCK) return extremes(this.samples, first, Math.max(last, first + 1));
    const among = this.blocks.slice(Math.floor(first / BLOCK), Math.ceil(last / BLOCK));
    return among.reduce(([low, high], [a, b]) => [Math.min(low, a), Math.max(high, b)], [0, 0]);
  }

  /** Powers (BINS) around a sample; the result is reused. */
  #column(centre) {
    const first = Math.round(centre - WINDOW / 2);
    for (let i = 0; i < WINDOW; i++) {
      const at = first + i;
      this.#frame[i] = gaussian[i] * ((this.samples[at] ?? 0) - PRE_EMPHASIS * (this.samples[at - 1] ?? 0));
    }
    return this.#power(this.#frame);
  }

  /**
   * A piece of the spectrogram, TILE_PX wide, low frequencies at the bottom.
   * @param {number} index of the piece; the first begins with the recording
   * @param {number} pxPerS columns per s
   * @param {number[]} ink red, green, blue of the loudest; silence is transparent
   * @returns {OffscreenCanvas} the same one as long as the scale and the ink are
   */
  tile(index, pxPerS, ink) {
    const look = [pxPerS, ...ink].join();
    if (look !== this.look || this.tiles.size > MOST_TILES) this.tiles = new Map();
    this.look = look;
    if (!this.tiles.has(index)) {
      const canvas = new OffscreenCanvas(TILE_PX, BINS);
      canvas.getContext("2d").putImageData(this.#image(index * TILE_PX, pxPerS, ink), 0, 0);
      this.tiles.set(index, canvas);
    }
    return this.tiles.get(index);
  }

  #image(firstColumn, pxPerS, [red, green, blue]) {
    const image = new ImageData(TILE_PX, BINS);
    const pixels = new Uint32Array(image.data.buffer);
    const colour = red | (green << 8) | (blue << 16);
    const silence = this.loudest * 10 ** (-RANGE_DB / 10);
    for (let x = 0; x < TILE_PX; x++) {
      const power = this.#column(((firstColumn + x + 0.5) / pxPerS) * SAMPLE_RATE);
      for (let bin = 0; bin < BINS; bin++) {
        if (power[bin] <= silence) continue;
        const level = (10 * Math.log10(power[bin] / silence)) / RANGE_DB;
        pixels[(BINS - 1 - bin) * TILE_PX + x] = colour | ((255 * Math.min(level, 1) ** CONTRAST) << 24);
      }
    }
    return image;
  }
}

function extremes(samples, first, last) {
  let [low, high] = [0, 0];
  for (let i = Math.max(first, 0); i < Math.min(last, samples.length); i++) {
    if (samples[i] < low) low = samples[i];
    else if (samples[i] > high) high = samples[i];
  }
  return [low, high];
}

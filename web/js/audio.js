// Any recording as mono samples at the model's rate (couloir/audio).

import { mono } from "./channels.js";
import { LOUDEST, MISSING_ALLOWED_S, SAMPLE_RATE } from "./constants.js";
import { headOf } from "./heads.js";
import { resample } from "./resample.js";
import { parseWav } from "./wav.js";

/** Where the file does not say its rate, it is decoded at the most usual one. */
const USUAL_RATE = 48000;

/**
 * @param {ArrayBuffer} bytes an encoded recording
 * @param {string} name for messages
 * @returns {Promise<Float32Array>} its channels as one at SAMPLE_RATE
 * @throws {Error} the recording is empty, not audio, cut short or damaged
 */
export async function decode(bytes, name) {
  try {
    if (!bytes.byteLength) throw new Error("is empty (0 bytes)");
    const { samples, rate } = parseWav(bytes) ?? (await decodeByBrowser(bytes));
    check(samples, rate);
    const resampled = await resample(samples, rate, SAMPLE_RATE);
    if (!resampled.length) throw new Error(`is too short: ${samples.length} samples at ${rate} Hz`);
    return resampled;
  } catch (error) {
    throw new Error(`${name} ${error.message}`);
  }
}

function check(samples, rate) {
  if (!samples.length) throw new Error("holds no samples");
  let peak = 0;
  for (let i = 0; i < samples.length; i++) {
    const loud = Math.abs(samples[i]);
    if (!(loud < Infinity)) throw new Error(`holds NaN or infinite samples, the first at ${(i / rate).toFixed(3)} s`);
    if (loud > peak) peak = loud;
  }
  if (peak > LOUDEST) throw new Error(`must hold samples in [-1, 1], but they reach ${peak.toFixed(0)}`);
}

/** What the browser decodes at the file's own rate, whose samples are the file's: browsers resample less well. */
async function decodeByBrowser(bytes) {
  const head = headOf(bytes);
  const context = contextAt(head?.rate ?? USUAL_RATE);
  let buffer;
  try {
    buffer = await context.decodeAudioData(bytes);
  } catch {
    throw new Error("is not audio that this browser can read; convert it to wav, flac, mp3 or ogg");
  }
  if (head?.seconds - buffer.duration > MISSING_ALLOWED_S) {
    throw new Error(`is truncated: it holds ${buffer.duration.toFixed(2)} s of ${head.seconds.toFixed(2)} s`);
  }
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, i) => buffer.getChannelData(i));
  return { samples: mono(channels, context.sampleRate), rate: context.sampleRate };
}

function contextAt(rate) {
  try {
    return new OfflineAudioContext(1, 1, rate);
  } catch {
    return new OfflineAudioContext(1, 1, USUAL_RATE);
  }
}

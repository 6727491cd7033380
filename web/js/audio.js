// Any recording as mono samples at the model's rate (couloir/audio.py).

import { SAMPLE_RATE } from "./constants.js";
import { parseWav } from "./wav.js";

/**
 * @param {ArrayBuffer} bytes an encoded recording
 * @param {string} name for messages
 * @returns {Promise<Float32Array>} mean over the channels at SAMPLE_RATE
 * @throws {Error} the recording is empty, not audio, cut short or damaged
 */
export async function decode(bytes, name) {
  if (!bytes.byteLength) throw new Error(`${name} is empty (0 bytes)`);
  let wav;
  try {
    wav = parseWav(bytes);
  } catch (error) {
    throw new Error(`${name} ${error.message}`);
  }
  // An uncompressed file at the right rate gives the very samples that Python hears; browsers decode the rest.
  const samples = wav?.rate === SAMPLE_RATE ? wav.samples : await decodeByBrowser(bytes, name);
  if (!samples.length) throw new Error(`${name} holds no samples`);
  const bad = samples.findIndex((sample) => !Number.isFinite(sample));
  if (bad >= 0) throw new Error(`${name} holds NaN or infinite samples, the first at ${(bad / SAMPLE_RATE).toFixed(3)} s`);
  return samples;
}

async function decodeByBrowser(bytes, name) {
  const context = new OfflineAudioContext(1, 1, SAMPLE_RATE);
  try {
    return meanOf(await context.decodeAudioData(bytes));
  } catch {
    throw new Error(`${name} is not audio that this browser can read; convert it to wav, flac, mp3 or ogg`);
  }
}

function meanOf(buffer) {
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, i) => buffer.getChannelData(i));
  if (channels.length === 1) return channels[0];
  return channels[0].map((_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
}

/** Mono samples at another rate in Hz, resampled to SAMPLE_RATE. */
export async function resample(samples, rate) {
  if (rate === SAMPLE_RATE || !samples.length) return samples;
  const context = new OfflineAudioContext(1, Math.ceil((samples.length * SAMPLE_RATE) / rate), SAMPLE_RATE);
  const buffer = context.createBuffer(1, samples.length, rate);
  buffer.copyToChannel(samples, 0);
  const source = new AudioBufferSourceNode(context, { buffer });
  source.connect(context.destination);
  source.start();
  return (await context.startRendering()).getChannelData(0);
}

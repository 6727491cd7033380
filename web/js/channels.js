// Channels -> one (couloir/audio/channels.py): the mean of those that hold sound, or the loudest where they cancel.

import { CANCELLED } from "./constants.js";

/** Of channels as loud as the loudest, the first is taken. */
const AS_LOUD = 0.99;

const isFinite = (channel) => channel.every((sample) => Math.abs(sample) < Infinity);
const isLively = (channel) => channel.some((sample) => sample !== channel[0]);

/**
 * @param {Float32Array[]} channels of one length
 * @param {number} rate in Hz
 * @returns {Float32Array} the mean of the channels that hold more than one value and, where others are sound, no NaN;
 * the loudest of them where they cancel each other over a second, or over all
 */
export function mono(channels, rate) {
  if (channels.length === 1 || !channels[0].length) return channels[0];
  const usable = channels.filter(isFinite);
  const lively = usable.filter(isLively);
  if (!lively.length) return meanOf(usable.length ? usable : channels);
  const mean = meanOf(lively);
  return lively.length > 1 ? (loudestIfCancelling(lively, mean, rate) ?? mean) : mean;
}

function meanOf(channels) {
  const mean = new Float32Array(channels[0].length);
  for (let i = 0; i < mean.length; i++) {
    let sum = 0;
    for (const channel of channels) sum = Math.fround(sum + channel[i]);
    mean[i] = sum / channels.length;
  }
  return mean;
}

function loudestIfCancelling(channels, mean, rate) {
  const spreads = channels.map((channel) => deviation(channel, 0, channel.length));
  const most = Math.max(...spreads);
  const loudest = channels[spreads.findIndex((spread) => spread >= AS_LOUD * most)];
  if (deviation(mean, 0, mean.length) < CANCELLED * most) return loudest;
  for (let start = 0; start + rate <= mean.length; start += rate) {
    const there = Math.max(...channels.map((channel) => deviation(channel, start, start + rate)));
    if (there > CANCELLED * most && deviation(mean, start, start + rate) < CANCELLED * there) return loudest;
  }
  return null;
}

function deviation(samples, start, stop) {
  let [sum, squares] = [0, 0];
  for (let i = start; i < stop; i++) {
    sum += samples[i];
    squares += samples[i] ** 2;
  }
  const mean = sum / (stop - start);
  return Math.sqrt(Math.max(squares / (stop - start) - mean ** 2, 0));
}

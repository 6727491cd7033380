// Samples at another rate, by the windowed sinc of soxr's high quality (couloir/audio).

// Measured from soxr's impulse response, which these give to -130 dB; in samples and Nyquist frequencies of the lower rate.
const CUTOFF = 0.956872;
const HALF_WIDTH = 96.833;
/** Of Kaiser's window. */
const BETA = 13.04;
/** Samples after which the page may do something else. */
const BLOCK = 2 ** 15;

/**
 * @param {Float32Array} samples at `rate` in Hz
 * @returns {Promise<Float32Array>} at `wanted` in Hz
 */
export async function resample(samples, rate, wanted) {
  if (rate === wanted) return samples;
  const divisor = greatestDivisor(rate, wanted);
  const [step, phases] = [rate / divisor, wanted / divisor];
  const filter = filterOf(rate, wanted);
  const rows = new Array(phases);
  const resampled = new Float32Array(Math.round((samples.length * wanted) / rate));
  for (let i = 0; i < resampled.length; i++) {
    const [whole, phase] = [Math.floor((i * step) / phases), (i * step) % phases];
    rows[phase] ??= filter.row(phase / phases);
    resampled[i] = weighted(samples, rows[phase], whole - filter.reach + 1);
    if (i % BLOCK === BLOCK - 1) await new Promise((resume) => setTimeout(resume));
  }
  return resampled;
}

const greatestDivisor = (a, b) => (b ? greatestDivisor(b, a % b) : a);

/** Sum of the samples from `first` on, each by its weight; there is silence beyond both ends. */
function weighted(samples, weights, first) {
  const end = Math.min(weights.length, samples.length - first);
  let sum = 0;
  for (let k = Math.max(-first, 0); k < end; k++) sum += weights[k] * samples[first + k];
  return sum;
}

/** Low-pass filter between two rates: its reach in samples to either side, and its weights between two of them. */
function filterOf(rate, wanted) {
  const lower = Math.min(1, wanted / rate);
  const cutoff = lower * CUTOFF;
  const half = HALF_WIDTH / lower;
  const reach = Math.ceil(half);
  const weight = (x) => (Math.abs(x) < half ? cutoff * sinc(cutoff * x) * kaiser(x / half) : 0);
  /** For a place that lies `share` of a sample behind the `reach`th. */
  const row = (share) => Float32Array.from({ length: 2 * reach }, (_, k) => weight(share + reach - 1 - k));
  return { reach, row };
}

const sinc = (x) => (x ? Math.sin(Math.PI * x) / (Math.PI * x) : 1);

/** The modified Bessel function of the first kind of order 0. */
function bessel(x) {
  let [sum, term] = [1, 1];
  for (let k = 1; term > 1e-12 * sum; k++) sum += term *= (x / (2 * k)) ** 2;
  return sum;
}

const kaiser = (x) => bessel(BETA * Math.sqrt(1 - x * x)) / bessel(BETA);

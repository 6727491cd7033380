// Fast Fourier transform, radix 2.

/**
 * Power spectra of real frames.
 * @param {number} size a power of two
 * @returns {(frame: Float32Array) => Float32Array} (N <= size) samples -> (size / 2) powers; the result is reused
 */
export function powerSpectrum(size) {
  const half = size / 2;
  const [real, imaginary] = [new Float32Array(size), new Float32Array(size)];
  const cosine = Float32Array.from({ length: half }, (_, i) => Math.cos((2 * Math.PI * i) / size));
  const sine = Float32Array.from({ length: half }, (_, i) => -Math.sin((2 * Math.PI * i) / size));
  const bits = Math.log2(size);
  const reversed = Uint16Array.from({ length: size }, (_, i) => {
    let mirrored = 0;
    for (let bit = 0; bit < bits; bit++) mirrored |= ((i >> bit) & 1) << (bits - 1 - bit);
    return mirrored;
  });
  const power = new Float32Array(half);

  return (frame) => {
    imaginary.fill(0);
    for (let i = 0; i < size; i++) real[reversed[i]] = i < frame.length ? frame[i] : 0;
    for (let width = 1; width < size; width *= 2) {
      const stride = half / width;
      for (let block = 0; block < size; block += 2 * width) {
        for (let i = 0; i < width; i++) {
          // Plain names, no destructuring: this is the loop in which all the time goes.
          const a = block + i;
          const b = a + width;
          const c = cosine[i * stride];
          const s = sine[i * stride];
          const re = real[b] * c - imaginary[b] * s;
          const im = real[b] * s + imaginary[b] * c;
          real[b] = real[a] - re;
          imaginary[b] = imaginary[a] - im;
          real[a] += re;
          imaginary[a] += im;
        }
      }
    }
    for (let i = 0; i < half; i++) power[i] = real[i] ** 2 + imaginary[i] ** 2;
    return power;
  };
}

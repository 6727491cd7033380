// What the first bytes of an encoded recording say of it.

const MP3_RATES = [44100, 48000, 32000];
/** By the two bits of the version: 2.5, none, 2, 1. */
const MP3_HALVINGS = [2, NaN, 1, 0];

/**
 * Of FLAC, MP3, Ogg Vorbis and Opus; null for anything else.
 * @param {ArrayBuffer} buffer
 * @returns {{rate: number, seconds?: number} | null} in Hz; how long the whole is, where that is stated
 */
export function headOf(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  const says = (at, text) => [...text].every((letter, i) => bytes[at + i] === letter.charCodeAt(0));
  if (says(0, "fLaC") && bytes.length >= 26) {
    const rate = view.getUint32(18) >>> 12;
    const count = (bytes[21] & 15) * 2 ** 32 + view.getUint32(22);
    return rate ? { rate, seconds: count / rate } : null;
  }
  if (says(0, "OggS") && says(28, "\x01vorbis") && bytes.length >= 44) return { rate: view.getUint32(40, true) };
  if (says(0, "OggS") && says(28, "OpusHead")) return { rate: 48000 };
  const rate = mp3Rate(bytes, says(0, "ID3") ? afterId3(bytes) : 0);
  return rate ? { rate } : null;
}

/** Seven bits of each of four bytes tell how long the tag is. */
const afterId3 = (bytes) => 10 + [6, 7, 8, 9].reduce((size, at) => size * 128 + (bytes[at] & 127), 0);

function mp3Rate(bytes, at) {
  const [sync, kind, rates] = bytes.subarray(at, at + 3);
  const isFrame = sync === 0xff && kind >> 5 === 7 && (kind & 6) !== 0;
  return isFrame ? MP3_RATES[(rates >> 2) & 3] / 2 ** MP3_HALVINGS[(kind >> 3) & 3] : NaN;
}

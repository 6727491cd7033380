// The pieces of a model's output by id (couloir/inference/vocabulary.py, text/tokenizer.py, text/byte_pieces.py); 0 is blank.

const SPECIAL = new Set(["<blk>", "<eps>", "<blank>", "<sos/eos>", "<sos>", "<eos>", "<s>", "</s>"]);
const BYTE = /^<0x([0-9A-Fa-f]{2})>$/;
const PIECE_ID = /^[ \t]*(?:(.*?)[ \t]+)?([0-9]{1,9})[ \t]*$/s;
const ID_PIECE = /^[ \t]*([0-9]{1,9})(?:[ \t]+(.*?))?[ \t]*$/s;

/** What a piece adds to the text: nothing for a special one, a space where a word begins. */
export function surface(piece) {
  if (SPECIAL.has(piece)) return "";
  return piece === "<unk>" ? "⁇" : piece.replaceAll("▁", " ").replaceAll("<space>", " ");
}

/**
 * What each piece of a row adds to the text; of a run of byte pieces the first adds its characters.
 * @param {string[]} pieces
 * @returns {string[]}
 */
export function surfaces(pieces) {
  const found = [];
  while (found.length < pieces.length) {
    const bytes = [];
    for (let at = found.length; at < pieces.length && BYTE.test(pieces[at]); at++) bytes.push(parseInt(pieces[at].slice(3, 5), 16));
    if (bytes.length) found.push(textOfBytes(bytes), ...Array(bytes.length - 1).fill(""));
    else found.push(surface(pieces[found.length]));
  }
  return found;
}

const IPA_ALONE = /[\u0250-\u02af\u02d0ŋθβχ]/;
const IPA = /^(?:[a-zæçðøħœǀǁǂǃ\u0250-\u02af\u02d0ŋθβχ]|\p{M}|\p{Lm})*$/u;
const UNWRITTEN = /^<.+>$/;

/**
 * What stands between two pieces of a text: a blank where most are names of several Latin letters that are no IPA
 * (ARPABET, pinyin, words).
 * @param {string[]} pieces
 * @returns {string}
 */
export function blankBetween(pieces) {
  const plain = [...new Set(pieces.filter((piece) => !SPECIAL.has(piece) && piece !== "<unk>" && !BYTE.test(piece)))];
  if (plain.some((piece) => piece === "<space>" || /[▁ ]/.test(piece))) return "";
  const letters = (piece) => [...piece.normalize("NFD").replace(/\p{M}/gu, "")];
  const names = plain.filter((piece) => letters(piece).length > 1 && /^\p{Script=Latin}/u.test(letters(piece)[0]));
  const written = plain.filter((piece) => !UNWRITTEN.test(piece));
  const ipa = written.filter((piece) => IPA.test(piece.normalize("NFD")));
  const phones = 2 * ipa.length >= written.length && written.some((piece) => IPA_ALONE.test(piece));
  return 2 * names.length > plain.length && !phones ? " " : "";
}

/** The text of bytes in UTF-8; each that is part of no character becomes U+FFFD, as in sentencepiece. */
function textOfBytes(bytes) {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const character = (at) => {
    for (let length = 1; length <= 4 && at + length <= bytes.length; length++) {
      try {
        return [decoder.decode(Uint8Array.from(bytes.slice(at, at + length))), length];
      } catch {
        // The character may have more bytes.
      }
    }
    return ["\ufffd", 1];
  };
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const [letter, length] = character(at);
    text += letter;
    at += length;
  }
  return text;
}

/**
 * The pieces of a tokens.txt: a line "piece id" for each, or "id piece"; an id alone is that of the space.
 * @param {string} text
 * @returns {string[]} by id
 * @throws {Error} naming the line, when it is not such a table
 */
export function parseTokens(text) {
  const lines = text.replace(/^\ufeff/, "").split(/\r\n|\r|\n/);
  const rows = [...lines.entries()].filter(([, line]) => /[^ \t]/.test(line));
  const all = (pattern) => rows.every(([, line]) => pattern.test(line));
  const idFirst = !all(PIECE_ID) && all(ID_PIECE);
  const pieces = new Map();
  for (const [number, line] of rows) {
    const found = (idFirst ? ID_PIECE : PIECE_ID).exec(line);
    if (!found) throw new Error(`line ${number + 1} of tokens.txt must be "piece id", but is "${line.slice(0, 40)}"`);
    const [piece, id] = idFirst ? [found[2] || " ", Number(found[1])] : [found[1] || " ", Number(found[2])];
    if (/^#\d+$/.test(piece)) continue;
    if ((pieces.get(id) ?? piece) !== piece) throw new Error(`id ${id} of tokens.txt must be of one piece, but is of two`);
    pieces.set(id, piece);
  }
  const list = Array.from({ length: pieces.size }, (_, id) => pieces.get(id));
  if (!list.length || list.includes(undefined)) {
    throw new Error(`tokens.txt must be a table of ids 0, 1, 2, ..., but is ${list.length ? "one with gaps" : "empty"}`);
  }
  if (!["<blk>", "<eps>", "<blank>"].includes(list[0])) {
    throw new Error(`piece 0 of tokens.txt must be the blank, <blk>, but is "${list[0].slice(0, 40)}"`);
  }
  return list;
}

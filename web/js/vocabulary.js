// The pieces of a model's output by id (couloir/inference/vocabulary.py, text/tokenizer.py); 0 is blank.

const SPECIAL = new Set(["<blk>", "<eps>", "<sos/eos>", "<sos>", "<eos>", "<s>", "</s>"]);

/** What a piece adds to the text: nothing for a special one, a space where a word begins. */
export function surface(piece) {
  if (SPECIAL.has(piece)) return "";
  return piece === "<unk>" ? "⁇" : piece.replaceAll("▁", " ");
}

/**
 * The pieces of a tokens.txt: a line "piece id" for each.
 * @param {string} text
 * @returns {string[]} by id
 * @throws {Error} naming the line, when it is not such a table
 */
export function parseTokens(text) {
  const pieces = new Map();
  const wrong = (number, line) => new Error(`line ${number + 1} of tokens.txt must be "piece id", but is "${line.slice(0, 40)}"`);
  for (const [number, raw] of text.split(/\r\n|\r|\n/).entries()) {
    const line = raw.trimEnd();
    const at = Math.max(line.lastIndexOf(" "), 0);
    const [piece, index] = [line.slice(0, at), line.slice(at + 1)];
    if (!line || /^#\d+$/.test(piece)) continue;
    if (!/^\d+$/.test(index) || !piece.trim()) throw wrong(number, line);
    const taken = pieces.get(Number(index));
    if (taken !== undefined && taken !== piece.trim()) throw new Error(`id ${index} of tokens.txt must be of one piece, but is of two`);
    pieces.set(Number(index), piece.trim());
  }
  const list = Array.from({ length: pieces.size }, (_, id) => pieces.get(id));
  if (!list.length || list.includes(undefined)) {
    throw new Error(`tokens.txt must be a table of ids 0, 1, 2, ..., but is ${list.length ? "one with gaps" : "empty"}`);
  }
  return list;
}

// Where a model comes from: a folder on the page's server, an address, or files that the person picks.

export const DEFAULT_FOLDER = "model/";
const NAMES = ["audio-model.int8.onnx", "audio-model.onnx"];

/** @typedef {{name: string, model: Uint8Array, tokens: string}} ModelFiles */

/**
 * @param {string} source as of `fetchModel`
 * @returns {string} the machine that it is fetched from, if that is not the page's own; otherwise ""
 */
export function hostElsewhere(source, base = document.baseURI) {
  let url;
  try {
    url = new URL(source, base);
  } catch {
    return ""; // fetching it says what is wrong
  }
  const known = ["http:", "https:"].includes(url.protocol);
  return url.origin === new URL(base).origin && known ? "" : (known && url.host) || url.protocol;
}

/**
 * @param {string} source a folder that holds audio-model.int8.onnx (or audio-model.onnx) and tokens.txt, or an .onnx
 *   file with tokens.txt beside it
 * @param {(share: number) => void} onProgress
 * @param {boolean} mayLeave whether the person has agreed to another machine than the page's own
 * @returns {Promise<ModelFiles>}
 * @throws {Error} what is missing
 */
export async function fetchModel(source, onProgress, mayLeave = false) {
  const given = addressOf(source);
  const get = (url) => answerOf(url, mayLeave);
  const isFile = given.pathname.endsWith(".onnx");
  const folder = isFile || given.pathname.endsWith("/") ? given : new URL(`${given.pathname}/`, given);
  for (const name of isFile ? [given.pathname.split("/").at(-1)] : NAMES) {
    const response = await get(isFile ? given : new URL(name, folder));
    if (!response) continue;
    const tokens = await get(new URL("tokens.txt", folder));
    if (!tokens) throw new Error(`there is no tokens.txt beside ${name}`);
    return { name, model: await bytesOf(response, onProgress), tokens: await tokens.text() };
  }
  throw new Error(`there is no model at ${source}; choose its two files below`);
}

function addressOf(source) {
  try {
    return new URL(source, document.baseURI);
  } catch {
    throw new Error("the model's address is none; choose its two files below");
  }
}

/** An answer of the page's own machine, or of another one to which nothing is sent but the question. */
async function answerOf(url, mayLeave) {
  const mode = mayLeave ? { mode: "cors", credentials: "omit" } : { mode: "same-origin" };
  try {
    const response = await fetch(url, { ...mode, referrerPolicy: "no-referrer" });
    return response.ok ? response : null;
  } catch {
    return null;
  }
}

async function bytesOf(response, onProgress) {
  const total = Number(response.headers.get("Content-Length"));
  const pieces = [];
  let length = 0;
  for (let reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    length += value.length;
    if (total) onProgress(Math.min(length / total, 1));
  }
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

/**
 * @param {File[]} files an .onnx and a tokens.txt, in any order
 * @returns {Promise<ModelFiles>}
 */
export async function readModel(files) {
  const [model, tokens] = [".onnx", ".txt"].map((suffix) => files.find(({ name }) => name.endsWith(suffix)));
  if (!model || !tokens) {
    throw new Error(`a model is two files chosen together, an .onnx and its tokens.txt; ${model ? "tokens.txt" : "the .onnx"} is missing`);
  }
  return { name: model.name, model: new Uint8Array(await model.arrayBuffer()), tokens: await tokens.text() };
}

// Where a model comes from: a folder on the page's server, an address, or files that the person picks.

export const DEFAULT_FOLDER = "model/";
const NAMES = ["audio-model.int8.onnx", "audio-model.onnx"];

/** @typedef {{name: string, model: Uint8Array, tokens: string}} ModelFiles */

/**
 * @param {string} source a folder that holds audio-model.int8.onnx (or audio-model.onnx) and tokens.txt, or an .onnx
 *   file with tokens.txt beside it
 * @param {(share: number) => void} onProgress
 * @returns {Promise<ModelFiles>}
 * @throws {Error} what is missing
 */
export async function fetchModel(source, onProgress) {
  const given = new URL(source, document.baseURI);
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

async function get(url) {
  try {
    const response = await fetch(url);
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

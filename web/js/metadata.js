// What an ONNX file says of itself, which ONNX Runtime does not give a page: the entries of its protobuf message.

const [VARINT, FIXED64, BYTES, FIXED32] = [0, 1, 2, 5];
const METADATA = 14;
const [KEY, VALUE] = [1, 2];

/**
 * @param {Uint8Array} model the ONNX file
 * @returns {Object<string, string>}
 * @throws {RangeError} a message that is damaged
 */
export function metadataOf(model) {
  const entries = [...fields(model)].filter(({ number, kind }) => number === METADATA && kind === BYTES);
  return Object.fromEntries(entries.map(({ value }) => {
    const parts = Object.fromEntries([...fields(value)].map(({ number, value: part }) => [number, part]));
    return [textOf(parts[KEY]), textOf(parts[VALUE])];
  }));
}

const textOf = (bytes) => (bytes instanceof Uint8Array ? new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes) : "");

/** The fields of a message, those without a length as no value. */
function* fields(message) {
  const at = { place: 0 };
  while (at.place < message.length) {
    const tag = varint(message, at);
    const [number, kind] = [Math.floor(tag / 8), tag % 8];
    let value;
    if (kind === VARINT) varint(message, at);
    else if (kind === FIXED64) at.place += 8;
    else if (kind === FIXED32) at.place += 4;
    else if (kind === BYTES) {
      const size = varint(message, at);
      value = message.subarray(at.place, (at.place += size));
      if (value.length !== size) throw new RangeError("a field is longer than its message");
    } else throw new RangeError("there is no such kind of field");
    yield { number, kind, value };
  }
}

/** A number of seven bits per byte, the lowest first; large ones lose their last digits, and sizes are never so large. */
function varint(message, at) {
  let value = 0;
  for (let unit = 1; at.place < message.length; unit *= 128) {
    const byte = message[at.place++];
    value += (byte & 127) * unit;
    if (byte < 128) return value;
  }
  throw new RangeError("a number is longer than its message");
}

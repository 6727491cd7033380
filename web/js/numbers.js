// Rounding and number formatting as Python does them, so that files are equal to the last digit.

const halfToEven = (x) => {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2) : Math.round(x);
};

/** numpy.round: scaled, rounded half to even, scaled back. */
export const roundArray = (x, digits) => halfToEven(x * 10 ** digits) / 10 ** digits;

/** Python's round: of the exact binary value, and half to even only where that is exactly between two. */
export const round = (x, digits) =>
  Number.isInteger(x * 2 ** (digits + 1)) ? roundArray(x, digits) : Number(x.toFixed(digits));

/** A number as Python prints a float. */
export const asFloat = (x) => (Number.isInteger(x) ? x.toFixed(1) : String(x));

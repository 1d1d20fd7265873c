// The sum that an ending brings of all content: its length in code points, and CRC-32 (ISO 3309) of it in UTF-8.

const POLYNOMIAL = 0xedb88320;
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
  return value;
});

// Whether the texts, one after the other, come to this length and sum.
export function adds(texts, chars, crc32) {
  const encoder = new TextEncoder();
  let length = 0;
  let sum = 0xffffffff;
  for (const text of texts) {
    for (const byte of encoder.encode(text)) {
      sum = TABLE[(sum ^ byte) & 0xff] ^ (sum >>> 8);
      // The bytes that begin a code point.
      if ((byte & 0xc0) !== 0x80) length += 1;
    }
  }
  return length === chars && (sum ^ 0xffffffff) >>> 0 === crc32;
}

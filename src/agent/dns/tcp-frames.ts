/** DNS over TCP: each message is preceded by its length in two bytes. Returns the whole messages and what is left. */
export function splitFrames(bytes: Buffer): { frames: Buffer[]; rest: Buffer } {
  const frames: Buffer[] = [];
  let offset = 0;
  while (offset + 2 <= bytes.length) {
    const end = offset + 2 + bytes.readUInt16BE(offset);
    if (end > bytes.length) break;
    frames.push(bytes.subarray(offset + 2, end));
    offset = end;
  }
  return { frames, rest: bytes.subarray(offset) };
}

/** The message with its length in front. */
export function frame(message: Uint8Array): Buffer {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(message.length);
  return Buffer.concat([length, message]);
}

// Reads a packed file (see "The packed file" in this book): a header of JSON, the tensors behind it.
(live => {
  const TYPES = { F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, I16: 2, I8: 1, U8: 1, BOOL: 1 };

  // bytes: Uint8Array -> { about, graph, tensors: { name: { dtype, shape, bytes } } }. Throws what is wrong.
  live.readPacked = bytes => {
    const length = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true));
    if (length < 2 || length > bytes.length - 8) throw new Error(`the packed file's header cannot have ${length} bytes`);
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
    const said = header.__metadata__;
    delete header.__metadata__;
    const about = JSON.parse(said.bnnlib);
    if (!(about.format >= 1 && about.format <= 3)) throw new Error(`the packed file is of format ${about.format}`);
    if (!about.graph) throw new Error('the packed file holds a trained model, not a packed network');
    const tensors = {};
    for (const [name, row] of Object.entries(header)) {
      const [begin, end] = row.data_offsets;
      const values = row.shape.reduce((a, b) => a * b, 1);
      if (end - begin !== values * TYPES[row.dtype] || 8 + length + end > bytes.length)
        throw new Error(`the tensor ${name} does not fit into the packed file`);
      tensors[name] = { dtype: row.dtype, shape: row.shape, bytes: bytes.subarray(8 + length + begin, 8 + length + end) };
    }
    return { about, graph: about.graph, tensors };
  };

  // The SHA-256 in a packed file is that of the file with zeros in its place. Null where the browser cannot compute one.
  live.isWhole = async bytes => {
    if (!globalThis.crypto?.subtle) return null;
    const length = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true));
    const header = new TextDecoder('latin1').decode(bytes.subarray(8, 8 + length));
    const found = /"sha256":"([0-9a-f]{64})"/.exec(header);
    if (!found) return false;
    const blank = bytes.slice();
    blank.fill(48, 8 + found.index + 10, 8 + found.index + 74);
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', blank));
    return [...digest].map(x => x.toString(16).padStart(2, '0')).join('') === found[1];
  };

  live.floats = tensor => new Float32Array(tensor.bytes.slice().buffer);
})(globalThis.bnnLive ??= {});

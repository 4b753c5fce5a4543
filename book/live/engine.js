// The shell around the WebAssembly module: a packed network becomes the records that kernels/executor/records.h describes, and runs.
// The module says in which order their fields stand and which numbers its names have. Of the format's operations this shell knows
// those of the book's nets; it says which it does not know.
(live => {
  const OPERATIONS = ['map', 'real_conv', 'binary_conv', 'max_pool', 'avg_pool', 'bit_pool', 'bit_pad'];
  const STAGES = ['scale', 'bias', 'affine', 'affine_fused', 'relu', 'clamp', 'prelu', 'step', 'residual', 'max_pool', 'avg_pool',
    'store', 'sign'];
  const WEIGHTS = ['float32', 'bfloat16', 'int8', 'bits'];
  const OWN = ['threshold', 'bits'];       // stages that are part of their operation's record
  const VERSION = 2;
  const words = channels => Math.ceil(channels / 64);

  // What of a graph this engine does not run, as the end of a sentence that begins with "the network"; '' where it runs all of it.
  live.notRun = graph => {
    if (graph.version > VERSION) return `is of version ${graph.version} of the format, and this page reads versions 1 to ${VERSION}`;
    for (const side of ['inputs', 'outputs'])
      if (graph[side].length !== 1) return `has ${graph[side].length} ${side}, and this page runs networks with one`;
    const found = { operation: new Set(), stage: new Set(), 'kind of weight': new Set() };
    for (const op of graph.ops) {
      if (!OPERATIONS.includes(op.kind)) found.operation.add(op.kind);
      else if (op.kind === 'real_conv' && !WEIGHTS.includes(op.attributes.weights)) found['kind of weight'].add(op.attributes.weights);
      for (const { op: stage } of op.stages) if (!STAGES.includes(stage) && !OWN.includes(stage)) found.stage.add(stage);
    }
    const parts = Object.entries(found).flatMap(([what, names]) => names.size ? [`the ${what} ${[...names].join(', ')}`] : []);
    return parts.length ? `has ${parts.join(' and ')}, which this page does not run; the Python library runs it` : '';
  };

  // [height, width, channels] that an operation gives before its stages.
  const outputShape = (op, [h, w, c], tensors) => {
    const a = op.attributes;
    if (op.kind === 'map') return [h, w, c * a.repeat];
    if (op.kind === 'bit_pad') return [h + 2 * a.padding[0], w + 2 * a.padding[1], c];
    const side = (size, i) => {
      const reach = size + 2 * a.padding[i] - (a.dilation ? a.dilation[i] : 1) * (a.kernel[i] - 1) - 1;
      if (!a.ceil) return Math.floor(reach / a.stride[i]) + 1;
      const n = Math.ceil(reach / a.stride[i]) + 1;       // the last window must begin inside
      return (n - 1) * a.stride[i] >= size + a.padding[i] ? n - 1 : n;
    };
    return [side(h, 0), side(w, 1), op.kind.endsWith('conv') ? tensors[op.constants.weight].shape[0] : c];
  };

  // The same network with 32 bits to a weight and an activation: signs become floats of +1 and -1, and binary convolutions
  // real ones, whose weights the module writes out as floats. Its sums are whole numbers, so its answers are the same.
  live.floatTwin = ({ graph, tensors, about }) => {
    const slots = {};
    for (const [name, [, ...shape]] of Object.entries(graph.slots)) slots[name] = ['float32', ...shape];
    const ops = graph.ops.map(op => {
      const last = op.stages.filter(stage => stage.op === 'sign');
      const rest = op.stages.filter(stage => stage.op !== 'sign');
      if (last.length > 1 || op.stages.some(stage => stage.op === 'threshold' || stage.op === 'bits'))
        throw new Error('this network has no twin of floats');
      const stages = [...rest, ...last.flatMap(({ low, high, slot }) => [{ op: 'step', low, high }, { op: 'store', slot }])];
      if (op.kind !== 'binary_conv') return { ...op, stages };
      return { ...op, kind: 'real_conv', attributes: { ...op.attributes, weights: 'bits' }, stages };
    });
    return { about, tensors, graph: { ...graph, slots, ops } };
  };

  class Network {
    // module: WebAssembly.Module; packed: what readPacked gives.
    static async open(module, packed) {
      const instance = await WebAssembly.instantiate(module);
      return new Network(instance.exports, packed);
    }

    constructor(exports, { graph, tensors, about }) {
      const wrong = live.notRun(graph);
      if (wrong) throw new Error(`the network ${wrong}`);
      Object.assign(this, { exports, graph, tensors, about });
      const names = [...graph.inputs];
      for (const op of graph.ops) for (const stage of op.stages) if (stage.slot && stage.op !== 'residual') names.push(stage.slot);
      this.numbers = Object.fromEntries(names.map((name, i) => [name, i]));
      const text = this.#text(exports.names(), 2000).split('; ').map(list => list.split(': '));
      const known = Object.fromEntries(text.map(([list, entries]) => [list, entries.split(', ')]));
      const slots = names.map((name, i) => {
        const [kind, h, w, c] = graph.slots[name];
        return { kind: known.slots.indexOf(kind), h, w, c, area: known.areas.indexOf('outside'), offset: i };
      });
      const { ops, stages, constants } = this.#records(known);
      const room = constants.map(bytes => [this.#put(bytes), bytes.length]);
      const table = (records, fields) => [this.#put64(records.flatMap(record => fields.map(field => record[field]))), records.length];
      const tables = [...table(slots, known.slot), ...table(ops, known.op), ...table(stages, known.stage)];
      const list = this.#put(new Uint8Array(Int32Array.from(room.flat()).buffer));
      const variant = this.#put(new TextEncoder().encode('wasm\0'));
      if (!exports.load(variant, ...tables, list, constants.length, 1)) throw new Error(this.#error());
      this.inputShape = graph.slots[graph.inputs[0]].slice(1);
    }

    #records(known) {
      const { graph, tensors } = this, ops = [], stages = [], constants = [], places = {};
      const constant = name => {
        if (!name) return -1;
        if (!(name in places)) places[name] = constants.push(tensors[name].bytes) - 1;
        return places[name];
      };
      const number = x => constants.push(new Uint8Array(Float32Array.of(x).buffer)) - 1;
      const endless = name => live.floats(tensors[name]).every(x => x === Infinity);
      for (const op of graph.ops) {
        const a = op.attributes, pair = (name, otherwise) => a[name] ?? [otherwise, otherwise];
        const first = op.stages[0], own = OWN.includes(first.op);
        const [h, w, c] = outputShape(op, graph.slots[op.inputs[0]].slice(1), tensors);
        const [kernel_h, kernel_w] = pair('kernel', 1), [stride_h, stride_w] = pair('stride', 1);
        const [padding_h, padding_w] = pair('padding', 0), [dilation_h, dilation_w] = pair('dilation', 1);
        ops.push({
          kind: known.operations.indexOf(op.kind), input: this.numbers[op.inputs[0]], h, w, c, kernel_h, kernel_w, stride_h, stride_w,
          padding_h, padding_w, dilation_h, dilation_w, groups: a.groups ?? 1, phase: 0, output: own ? this.numbers[first.slot] : -1,
          threshold: own ? constant(first.threshold) : -1, flip: own ? constant(first.flip) : -1, pool: first.op === 'threshold' ? first.pool : 1,
          first_stage: stages.length, stages: own ? 0 : op.stages.length, weight: constant(op.constants.weight),
          stored: known.stored.indexOf(a.weights ?? 'float32'), scale: constant(op.constants.scale), repeat: a.repeat ?? 1,
          border: op.kind === 'bit_pad' ? a.value : 1, count_padding: +!!a.count_padding, axis: 0, reduction: 0, taps: 0, table: -1, values: -1
        });
        if (own) continue;
        for (const stage of op.stages) {
          const kind = stage.op === 'affine' && stage.fused ? 'affine_fused' : stage.op;
          const one = stage.by ?? stage.scale ?? stage.slope ?? stage.low, two = stage.op === 'affine' ? stage.bias : stage.high;
          const spatial = name => +(typeof name === 'string' && tensors[name].shape.length === 3);
          const clamp = stage.op === 'clamp';
          const b = clamp ? number(two) : stage.op === 'sign' && endless(two) ? -1 : constant(two);
          stages.push({
            kind: known.stages.indexOf(kind), slot: stage.slot ? this.numbers[stage.slot] : -1, first: clamp ? number(one) : constant(one),
            second: b, size: stage.size ?? 1, spatial_first: clamp ? 0 : spatial(one), spatial_second: clamp || b < 0 ? 0 : spatial(two)
          });
        }
      }
      return { ops, stages, constants };
    }

    #allocate(bytes) {
      const at = this.exports.allocate(Math.max(1, bytes));
      if (!at) throw new Error('there is not enough memory for the network');
      return at;
    }

    #put(bytes) {
      const at = this.#allocate(bytes.length);
      new Uint8Array(this.exports.memory.buffer, at, bytes.length).set(bytes);
      return at;
    }

    #put64(numbers) {
      const at = this.#allocate(8 * numbers.length);
      new BigInt64Array(this.exports.memory.buffer, at, numbers.length).set(numbers.map(BigInt));
      return at;
    }

    #text(at, most) {
      const bytes = new Uint8Array(this.exports.memory.buffer, at, most);
      return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
    }

    #error() {
      return this.#text(this.exports.error(), 200);
    }

    // pixels: 0..255, [height][width][channels]. The network's output.
    run(pixels) {
      this.show(pixels);
      return this.again();
    }

    show(pixels) {
      const { mean, std } = this.about.images, to = this.values(this.graph.inputs[0]);
      const scale = std.map(s => Math.fround(1 / (255 * s))), shift = std.map((s, c) => Math.fround(-mean[c] / s));
      for (let i = 0; i < to.length; ++i) to[i] = Math.fround(pixels[i] * scale[i % scale.length]) + shift[i % scale.length];
    }

    again() {
      if (!this.exports.run(1)) throw new Error(this.#error());
      return Array.from(this.values(this.graph.outputs[0]));
    }

    // A float slot's values [height][width][channels] in the module's own memory.
    values(name) {
      const [kind, h, w, c] = this.graph.slots[name];
      if (kind !== 'float32') throw new Error(`the slot ${name} holds bits`);
      return new Float32Array(this.exports.memory.buffer, this.exports.slot(this.numbers[name]), h * w * c);
    }

    // A bit slot as bytes of 0 and 1, [height][width][channels].
    bits(name) {
      const [, h, w, c] = this.graph.slots[name], line = 8 * words(c);
      const from = new Uint8Array(this.exports.memory.buffer, this.exports.slot(this.numbers[name]), h * w * line);
      const to = new Uint8Array(h * w * c);
      for (let p = 0, at = 0; p < h * w; ++p) for (let i = 0; i < c; ++i) to[at++] = from[p * line + (i >> 3)] >> (i & 7) & 1;
      return to;
    }
  }

  // Milliseconds an image of each network: the fastest of the rounds in which they take turns, `budget` milliseconds in all. Whatever
  // else the device does makes a round slower, never faster.
  live.measure = (networks, budget = 60) => {
    const counts = networks.map(network => {
      let n = 0;
      const until = performance.now() + 4;
      do network.exports.run(1), ++n; while (performance.now() < until);
      return n;
    });
    const best = networks.map(() => Infinity);
    const end = performance.now() + budget;
    for (let round = 0; round < 5 || (performance.now() < end && round < 20); ++round) {
      networks.forEach((network, i) => {
        const start = performance.now();
        for (let k = 0; k < counts[i]; ++k) network.exports.run(1);
        best[i] = Math.min(best[i], (performance.now() - start) / counts[i]);
      });
    }
    return best;
  };

  live.softmax = logits => {
    const top = Math.max(...logits), powers = logits.map(x => Math.exp(x - top)), sum = powers.reduce((a, b) => a + b);
    return powers.map(x => x / sum);
  };

  live.Network = Network;
  live.words = words;
})(globalThis.bnnLive ??= {});

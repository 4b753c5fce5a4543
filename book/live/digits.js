// The reader's digit: from the pad through the net to every view of it.
(live => {
  const MAPS = 'conv2.layer.input', SECOND = 'fc1.layer.input', THIRD = 'fc1.act', LAYER = 'conv2.layer', KERNEL = 5, SIDE = 8;
  const PRODUCTS = 500;        // of a sum: 20 maps, 5 x 5 places

  class Digits {
    constructor(root, net, twin, examples) {
      Object.assign(this, { root, net, twin, examples, place: null });
      this.filter = live.floats(net.tensors[`${LAYER}.scale`]);
      const row = Math.ceil(PRODUCTS / 8), packed = net.tensors[`${LAYER}.weight`].bytes;
      this.weights = Uint8Array.from({ length: 50 * PRODUCTS }, (_, i) => {
        const at = i % PRODUCTS;
        return packed[Math.floor(i / PRODUCTS) * row + (at >> 3)] >> (at & 7) & 1;
      });
      this.part = name => root.querySelector(`[data-part="${name}"]`);
      this.pad = new live.Pad(this.part('pad'), (strokes, done) => this.update(strokes, done));
      this.pad.example = digit => this.pad.set(examples[digit]);
      root.querySelectorAll('[data-example]').forEach(b => b.addEventListener('click', () => this.pad.example(+b.dataset.example)));
      root.querySelector('[data-do="clear"]').addEventListener('click', () => this.pad.set([]));
      root.querySelector('[data-do="undo"]')?.addEventListener('click', () => this.pad.undo());
      for (const name of ['filter', 'row', 'column'])
        this.part(name)?.addEventListener('input', () => this.choose(...['filter', 'row', 'column'].map(n => this.part(n).value - 1)));
      this.pad.set(examples[root.dataset.first]);
      this.pad.fresh = true;
      if (this.part('filter')) {
        const canvas = live.canvasIn(this.part('layer2'));
        const point = event => this.point(live.cellAt(canvas, event));
        canvas.addEventListener('pointermove', point);
        canvas.addEventListener('pointerdown', point);
      }
    }

    update(strokes, done) {
      clearTimeout(this.later);
      const image = this.image = live.digitImage(strokes);
      const logits = this.net.run(image ?? new Uint8Array(784)), shares = live.softmax(logits);
      this.answer = image ? shares.indexOf(Math.max(...shares)) : null;
      this.part('answer').innerHTML = image ? `<b>${this.answer}</b> <span>${live.percent(shares[this.answer])} sure</span>` : '<span>Draw a digit.</span>';
      live.drawBars(this.part('bars'), image ? shares : shares.map(() => 0), this.answer);
      this.draw();
      if (done && image) this.later = setTimeout(() => this.measure(image), 250);
    }

    measure(image) {
      this.net.show(image), this.twin.show(image);
      const [binary, float] = live.measure([this.net, this.twin]);
      this.times = { binary, float };
      this.part('time').textContent = `${live.duration(binary)} an image on this device; ${live.duration(float)} with 32-bit floats, ` +
        `${(float / binary).toFixed(1)} times as long`;
      if (!this.part('time-binary')) return;
      const logits = this.twin.again();
      this.part('time-binary').textContent = live.duration(binary);
      this.part('time-float').textContent = live.duration(float);
      this.part('time-ratio').textContent = `${(float / binary).toFixed(1)} ×`;
      this.part('answer-binary').textContent = this.answer;
      this.part('answer-float').textContent = logits.indexOf(Math.max(...logits));
    }

    draw() {
      const { net } = this, narrow = innerWidth < 600;
      this.first = net.bits(MAPS), this.second = net.bits(SECOND);
      if (this.part('seen')) live.drawMaps(this.part('seen'), [...this.image ?? new Uint8Array(784)].map(v => v / 255), [28, 28, 1], 1);
      const { place } = this, marked = place && this.part('filter');
      live.drawMaps(this.part('layer1'), this.first, [12, 12, 20], narrow || !this.part('seen') ? 5 : 10,
        { marks: marked ? [{ y: place.y, x: place.x, h: KERNEL, w: KERNEL }] : [] });
      live.drawMaps(this.part('layer2'), this.second, [4, 4, 50], 10,
        { marks: marked ? [{ map: place.filter, y: place.y >> 1, x: place.x >> 1, h: 1, w: 1 }] : [] });
      if (!this.part('layer3')) return;
      const values = net.values(THIRD), low = Math.min(...values), high = Math.max(...values);
      live.drawMaps(this.part('layer3'), values.map(v => (v - low) / (high - low || 1)), narrow ? [20, 25, 1] : [10, 50, 1], 1);
      const winner = place ?? this.strongest();
      this.choose(winner.filter, winner.y, winner.x, false);
    }

    // The 500 bits that one output of the binary convolution reads, channel by channel as its weights lie.
    window(y, x) {
      const bits = new Uint8Array(PRODUCTS);
      for (let c = 0, at = 0; c < 20; ++c)
        for (let i = 0; i < KERNEL; ++i)
          for (let j = 0; j < KERNEL; ++j) bits[at++] = this.first[((y + i) * 12 + x + j) * 20 + c];
      return bits;
    }

    // The sum that a filter makes of a window: equal bits less different ones.
    sum(filter, window) {
      let same = 0;
      for (let at = 0, from = filter * PRODUCTS; at < PRODUCTS; ++at) same += window[at] ^ this.weights[from + at] ^ 1;
      return 2 * same - PRODUCTS;
    }

    strongest() {
      let best = { sum: -Infinity };
      for (let y = 0; y < SIDE; ++y)
        for (let x = 0; x < SIDE; ++x) {
          const window = this.window(y, x);
          for (let filter = 0; filter < 50; ++filter) {
            const sum = this.sum(filter, window);
            if (sum > best.sum) best = { sum, filter, y, x };
          }
        }
      return best;
    }

    // A bit of layer 2 stands for four places; take the one whose scaled sum is the largest.
    point(cell) {
      if (!cell) return;
      let best = null;
      for (const y of [2 * cell.y, 2 * cell.y + 1])
        for (const x of [2 * cell.x, 2 * cell.x + 1]) {
          const value = this.sum(cell.map, this.window(y, x)) * this.filter[cell.map];
          if (!best || value > best.value) best = { value, y, x };
        }
      this.choose(cell.map, best.y, best.x);
    }

    choose(filter, y, x, anew = true) {
      if (anew) this.place = { filter, y, x }, this.draw();
      [['filter', filter], ['row', y], ['column', x]].forEach(([name, value]) => {
        this.part(name).value = value + 1, this.part(`${name}-said`).textContent = value + 1;
      });
      if (anew) return;
      const input = this.window(y, x), weight = this.weights.subarray(filter * PRODUCTS, (filter + 1) * PRODUCTS);
      const equal = input.map((bit, at) => +(bit === weight[at])), sum = this.sum(filter, input), same = (sum + PRODUCTS) / 2;
      const columns = innerWidth < 600 ? 10 : 20;
      // from channel by channel to [h][w][c]
      const turned = bits => Uint8Array.from({ length: PRODUCTS }, (_, i) => bits[i % 20 * 25 + Math.floor(i / 20)]);
      live.drawMaps(this.part('bits-in'), turned(input), [5, 5, 20], columns);
      live.drawMaps(this.part('bits-weight'), turned(weight), [5, 5, 20], columns);
      live.drawMaps(this.part('bits-equal'), turned(equal), [5, 5, 20], columns, { on: 'equal' });
      const bit = this.second[((y >> 1) * 4 + (x >> 1)) * 50 + filter];
      this.part('sum').innerHTML = `<b>${same}</b> of 500 bits are equal, so the sum is 2 × ${same} − 500 = <b>${sum}</b>. ` +
        `The largest of four neighbouring sums, scaled and compared with a threshold, gives layer 2 the bit <b>${bit}</b>.`;
    }
  }

  live.Digits = Digits;
})(globalThis.bnnLive ??= {});

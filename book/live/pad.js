// A square to draw on: by mouse, touch, pen, or keyboard. It keeps strokes, not pixels.
(live => {
  const PEN = 0.06, STEP = 0.04;

  class Pad {
    // element: what the canvas fills; changed(strokes, done) is called while and after a stroke is drawn.
    constructor(element, changed) {
      Object.assign(this, { strokes: [], changed, pen: [0.5, 0.5], down: false, steered: false });
      const canvas = this.canvas = document.createElement('canvas');
      canvas.tabIndex = 0;
      canvas.setAttribute('role', 'application');
      canvas.setAttribute('aria-label', 'Drawing pad. Arrow keys move the pen, Space puts it down or lifts it, a digit key draws an ' +
        'example, Backspace takes a stroke back, Delete clears.');
      element.replaceChildren(canvas);
      canvas.addEventListener('pointerdown', event => this.#begin(event));
      canvas.addEventListener('pointermove', event => this.#draw(event));
      for (const name of ['pointerup', 'pointercancel', 'lostpointercapture']) canvas.addEventListener(name, () => this.#end());
      canvas.addEventListener('keydown', event => this.#key(event));
      canvas.addEventListener('blur', () => { this.steered = this.down = false; this.paint(); });
      new ResizeObserver(() => this.paint()).observe(canvas);
    }

    set(strokes) {
      this.strokes = strokes.map(stroke => stroke.map(point => [...point]));
      this.fresh = false, this.down = false;
      this.#tell(true);
    }

    undo() { this.set(this.strokes.slice(0, -1)); }

    #tell(done) {
      this.paint();
      this.changed(this.strokes, done);
    }

    #at(event) {
      const box = this.canvas.getBoundingClientRect(), inside = x => Math.min(1, Math.max(0, x));
      return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
    }

    #begin(event) {
      if (event.button > 0 || this.pointer !== undefined) return;
      this.canvas.focus({ preventScroll: true });
      event.preventDefault();
      try { this.canvas.setPointerCapture(event.pointerId); } catch { /* a pointer made by a test has none */ }
      this.pointer = event.pointerId, this.steered = this.down = false;
      if (this.fresh) this.strokes = [], this.fresh = false;      // the example goes when the reader begins
      this.strokes.push([this.#at(event)]);
      this.#tell(false);
    }

    #draw(event) {
      if (event.pointerId !== this.pointer) return;
      const stroke = this.strokes.at(-1), events = event.getCoalescedEvents?.() ?? [];
      for (const each of events.length ? events : [event]) {
        const [x, y] = this.#at(each), [a, b] = stroke.at(-1);
        if (Math.hypot(x - a, y - b) > 0.004) stroke.push([x, y]);
      }
      this.#tell(false);
    }

    #end() {
      if (this.pointer === undefined) return;
      this.pointer = undefined;
      this.#tell(true);
    }

    #key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }, move = moves[event.key];
      if (move) {
        this.steered = true;
        this.pen = this.pen.map((x, i) => Math.min(0.98, Math.max(0.02, x + STEP * move[i])));
        if (this.down) this.strokes.at(-1).push([...this.pen]);
        this.#tell(false);
      } else if (event.key === ' ') {
        this.steered = true, this.down = !this.down;
        if (this.down) {
          if (this.fresh) this.strokes = [], this.fresh = false;
          this.strokes.push([[...this.pen]]);
        }
        this.#tell(!this.down);
      } else if (event.key === 'Backspace') this.undo();
      else if (event.key === 'Delete') this.set([]);
      else if (/^[0-9]$/.test(event.key) && this.example) this.example(+event.key);
      else return;
      event.preventDefault();
    }

    paint() {
      const canvas = this.canvas, side = Math.round(canvas.clientWidth * (devicePixelRatio || 1));
      if (!side) return;
      if (canvas.height !== side) canvas.width = canvas.height = side;     // a new canvas is 300 x 150
      const to = canvas.getContext('2d'), { ink, line, accent } = live.colours(canvas);
      to.clearRect(0, 0, side, side);
      to.lineCap = to.lineJoin = 'round';
      if (!this.strokes.length) {
        to.fillStyle = line, to.font = `${side / 15}px system-ui, sans-serif`, to.textAlign = 'center';
        to.fillText('draw a digit here', side / 2, side / 2);
      }
      to.strokeStyle = ink, to.lineWidth = PEN * side;
      for (const stroke of this.strokes) {
        to.beginPath();
        to.moveTo(stroke[0][0] * side, stroke[0][1] * side);
        for (const [x, y] of stroke) to.lineTo(x * side, y * side);
        to.lineTo(stroke.at(-1)[0] * side + 0.01, stroke.at(-1)[1] * side);
        to.stroke();
      }
      if (this.steered) {
        to.beginPath();
        to.arc(this.pen[0] * side, this.pen[1] * side, PEN * side * 0.7, 0, 7);
        to.fillStyle = to.strokeStyle = accent, to.lineWidth = side / 100;
        this.down ? to.fill() : to.stroke();
      }
    }
  }

  live.Pad = Pad;
})(globalThis.bnnLive ??= {});

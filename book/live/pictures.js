// Pictures of 32 x 32 pixels through the net for CIFAR-10: drawn examples, and the reader's own.
(live => {
  const SIDE = 32, FINE = 8;

  class Pictures {
    // examples: { name: pixels as base64, [32][32][3] }
    constructor(root, net, twin, examples) {
      Object.assign(this, { root, net, twin });
      this.part = name => root.querySelector(`[data-part="${name}"]`);
      this.layers = net.graph.ops.filter(op => op.kind === 'binary_conv').map(op => op.inputs[0]);
      const pixels = name => Uint8Array.from(atob(examples[name]), c => c.charCodeAt(0));
      root.querySelectorAll('[data-picture]').forEach(button => {
        button.disabled = false;
        button.addEventListener('click', () => this.show(pixels(button.dataset.picture), `drawn: ${button.dataset.picture}`));
      });
      this.part('file').addEventListener('change', event => this.open(event.target.files[0]));
      const photo = this.part('photo');
      photo.addEventListener('dragover', event => event.preventDefault());
      photo.addEventListener('drop', event => { event.preventDefault(); this.open(event.dataTransfer.files[0]); });
      this.part('layer').max = this.layers.length;
      this.part('layer').addEventListener('input', () => this.draw());
      this.show(pixels(root.dataset.first), `drawn: ${root.dataset.first}`);
    }

    // A picture of any size: its middle square, averaged to 32 x 32.
    async open(file) {
      if (!file) return;
      const said = this.part('wrong');
      said.hidden = true;
      try {
        const image = await createImageBitmap(file), side = Math.min(image.width, image.height), fine = SIDE * FINE;
        const canvas = Object.assign(document.createElement('canvas'), { width: fine, height: fine });
        const to = canvas.getContext('2d', { willReadFrequently: true });
        Object.assign(to, { imageSmoothingEnabled: true, imageSmoothingQuality: 'high', fillStyle: '#fff' });
        to.fillRect(0, 0, fine, fine);
        to.drawImage(image, (image.width - side) / 2, (image.height - side) / 2, side, side, 0, 0, fine, fine);
        const from = to.getImageData(0, 0, fine, fine).data, sums = new Float64Array(SIDE * SIDE * 3);
        for (let i = 0; i < fine * fine; ++i) {
          const pixel = Math.floor(Math.floor(i / fine) / FINE) * SIDE + Math.floor(i % fine / FINE);
          for (let c = 0; c < 3; ++c) sums[3 * pixel + c] += from[4 * i + c];
        }
        this.show(Uint8Array.from(sums, v => Math.round(v / FINE / FINE)), file.name);
      } catch {
        said.textContent = `${file.name} cannot be read as a picture: choose a JPEG, PNG or WebP file.`;
        said.hidden = false;
      }
    }

    show(pixels, name) {
      clearTimeout(this.later);
      this.pixels = pixels;
      const canvas = live.canvasIn(this.part('photo')), classes = this.net.about.images.classes;
      canvas.width = canvas.height = SIDE;
      canvas.setAttribute('aria-label', `${name}, 32 × 32 pixels`);
      const image = new ImageData(SIDE, SIDE);
      for (let i = 0; i < SIDE * SIDE; ++i) image.data.set([...pixels.subarray(3 * i, 3 * i + 3), 255], 4 * i);
      canvas.getContext('2d').putImageData(image, 0, 0);
      const shares = live.softmax(this.net.run(pixels)), best = shares.indexOf(Math.max(...shares));
      this.answer = classes[best];
      this.part('answer').innerHTML = `<b>${this.answer}</b> <span>${live.percent(shares[best])} sure</span>`;
      live.drawBars(this.part('bars'), shares, best);
      this.draw();
      this.later = setTimeout(() => this.measure(), 250);
    }

    measure() {
      this.net.show(this.pixels), this.twin.show(this.pixels);
      const [binary, float] = live.measure([this.net, this.twin], 600), logits = this.twin.again();
      this.times = { binary, float };
      this.part('time').textContent = `${live.duration(binary)} an image on this device; ${live.duration(float)} with 32-bit floats, ` +
        `${(float / binary).toFixed(1)} times as long`;
      this.part('time-binary').textContent = live.duration(binary);
      this.part('time-float').textContent = live.duration(float);
      this.part('time-ratio').textContent = `${(float / binary).toFixed(1)} ×`;
      this.part('answer-binary').textContent = this.answer;
      this.part('answer-float').textContent = this.net.about.images.classes[logits.indexOf(Math.max(...logits))];
    }

    draw() {
      const number = +this.part('layer').value, name = this.layers[number - 1], [, h, w, c] = this.net.graph.slots[name];
      const wide = innerWidth < 600 ? 264 : 528, columns = Math.min(c, Math.floor(wide / (w + 1)));
      const shown = Math.min(c, columns * Math.max(2, Math.floor(columns / 2)));
      live.drawMaps(this.part('maps'), this.net.bits(name), [h, w, c], columns, { shown });
      this.part('layer-said').textContent = number;
      this.part('maps-said').textContent = `Binary layer ${number} reads ${c} maps of ${h} × ${w} bits` +
        (shown < c ? `; the first ${shown} are shown.` : '.');
    }
  }

  live.Pictures = Pictures;
})(globalThis.bnnLive ??= {});

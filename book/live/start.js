// The one script that a page names. It loads the others, and the data, when the reader comes near.
(live => {
  const here = document.currentScript.src.replace(/[^/]*$/, '');
  const CODE = ['format.js', 'engine.js', 'digit.js', 'views.js', 'pad.js', 'digits.js', 'pictures.js'];
  const DATA = { digit: 'data-digit.js', picture: 'data-picture.js' };
  const loaded = {}, networks = {};

  live.data = {};
  const script = name => loaded[name] ??= new Promise((done, failed) => {
    const element = Object.assign(document.createElement('script'), { src: here + name, async: false, onload: done });
    element.onerror = () => failed(new Error(`${name} cannot be loaded`));
    document.head.append(element);
  });
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const module = async () => {
    await script('data-module.js');
    const code = bytes(live.data.module);
    if (!globalThis.WebAssembly || !WebAssembly.validate(code)) throw new Error('this browser does not run WebAssembly with SIMD');
    return WebAssembly.compile(code);
  };

  // { net, twin } of a kind; loaded once, however many parts of a page ask.
  const open = kind => networks[kind] ??= (async () => {
    await Promise.all([...CODE, DATA[kind]].map(script));
    const packed = bytes(live.data[kind].packed);
    if (await live.isWhole(packed) === false) throw new Error('the packed file is damaged');
    const read = live.readPacked(packed), code = await (loaded.module ??= module());
    return { net: await live.Network.open(code, read), twin: await live.Network.open(code, live.floatTwin(read)) };
  })();

  const start = async root => {
    const kind = root.dataset.live;
    try {
      const { net, twin } = await open(kind);
      const View = kind === 'digit' ? live.Digits : live.Pictures;
      root.querySelectorAll('[data-live-only]').forEach(element => { element.hidden = false; });
      root.querySelectorAll('[data-no-live]').forEach(element => { element.hidden = true; });
      root.view = new View(root, net, twin, live.data[kind].examples);
      new MutationObserver(() => { root.view.draw(); root.view.pad?.paint(); })
        .observe(document.documentElement, { attributes: true, attributeFilter: ['data-theme'] });
      root.dataset.state = 'live';
    } catch (error) {
      const said = root.querySelector('[data-part="wrong"]');
      said.textContent = `The net does not run here: ${error.message}. What you see is a still picture.`;
      said.hidden = false;
      root.dataset.state = 'still';
    }
  };

  const near = new IntersectionObserver(entries => {
    for (const { isIntersecting, target } of entries)
      if (isIntersecting) near.unobserve(target), (globalThis.requestIdleCallback ?? setTimeout)(() => start(target));
  }, { rootMargin: '300px' });
  document.querySelectorAll('.live[data-live]').forEach(root => near.observe(root));
})(globalThis.bnnLive ??= {});

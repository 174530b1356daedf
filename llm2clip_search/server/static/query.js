/**
 * The caption, further terms as chips, and pictures by file, paste or drop.
 * Uses of `app`: get, post, url, thumbnail, state, update, tell, events `state`, `ready` and `trouble`.
 */
import { h, visible } from './element.js';

export function mount(element, app) {
  const mirror = h('div', { className: 'mirror', 'aria-hidden': 'true' });
  const caption = h('textarea', { id: 'caption', rows: 1, spellcheck: false, autocomplete: 'off',
    'aria-label': 'What are you looking for?', 'aria-describedby': 'tokens',
    placeholder: 'Describe what to find', maxLength: 20_000 });
  const tokens = h('p', { id: 'tokens', className: 'tokens' });
  const trouble = h('p', { role: 'alert', className: 'trouble' });
  const terms = h('ul', { className: 'terms', 'aria-label': 'Further terms' });
  const file = h('input', { type: 'file', accept: 'image/*', multiple: true, hidden: true, 'aria-label': 'Pictures to search with',
    onchange: () => searchWith({ files: [...file.files], folders: 0 }) });
  const tool = (text, label, onclick, more = {}) => h('button', { type: 'button', 'aria-label': label, title: label, onclick, ...more }, text);
  const words = tool('+ Words', 'Add or take away words', () => {
    const field = h('input', { type: 'text', 'aria-label': 'Words of the new term', placeholder: 'at night', onchange: () => {
      const text = field.value.trim();
      if (text) app.update({ terms: [...app.state.terms, { text, weight: 0.5 }] });
    }, onblur: () => field.value.trim() || show() });
    terms.append(h('li', {}, field));
    terms.hidden = false;
    field.focus();
  });
  const toggle = tool('☰', 'Filters and saved searches', () => app.tell('side'), { id: 'toggle-side', 'aria-expanded': 'false' });
  const form = h('form', { role: 'search', onsubmit: (event) => {
    event.preventDefault();
    go();
  } }, toggle,
  h('div', { className: 'caption' }, mirror, caption, file, words,
    tool('Picture', 'Search with pictures', () => file.click())), h('button', { className: 'go' }, 'Search'),
  tool('◐', 'Light or dark', turnTheme));
  element.replaceChildren(form, h('div', { className: 'under' }, terms, tokens), trouble);

  const go = () => {
    const q = caption.value.trim();
    if (q === app.state.q) app.tell('state'); // ask again
    else app.update({ q });
  };
  const grow = () => {
    caption.style.height = 'auto';
    caption.style.height = `${Math.min(220, caption.scrollHeight)}px`;
    mirror.style.width = `${caption.clientWidth}px`; // so that its lines break at the same words
    mirror.style.height = `${caption.clientHeight}px`;
    mirror.scrollTop = caption.scrollTop;
  };
  new ResizeObserver(grow).observe(element);
  caption.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    go();
  });
  caption.addEventListener('scroll', () => { mirror.scrollTop = caption.scrollTop; });
  let timer = 0;
  const written = () => {
    grow();
    mirror.replaceChildren();
    clearTimeout(timer);
    timer = setTimeout(count, 300);
  };
  caption.addEventListener('input', written);

  /** How much of the caption is read; the rest is marked behind the text. */
  async function count() {
    const text = caption.value;
    if (!text.trim()) {
      tokens.textContent = '';
      return;
    }
    try {
      const { limit, texts: [{ count: number, cut }] } = await app.post('/tokens', { texts: [text] });
      if (text !== caption.value) return;
      const isCut = cut !== null && cut !== undefined;
      tokens.classList.toggle('over', isCut);
      tokens.textContent = isCut ? `${number} tokens, of which ${limit} are read: the end, which is underlined, is not.`
        : `${number} of ${limit} tokens`;
      const chars = [...text];
      mirror.replaceChildren(...(isCut ? [chars.slice(0, cut).join(''), h('mark', {}, chars.slice(cut).join(''))] : []));
      grow();
    } catch {
      tokens.textContent = ''; // the search says what is wrong
    }
  }

  async function searchWith(given) {
    trouble.textContent = '';
    const module = await import('./pictures.js');
    trouble.textContent = await module.searchWith(app, given);
    file.value = '';
  }
  const isField = ({ target }) => /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
  addEventListener('paste', (event) => {
    const given = files(event.clipboardData);
    const isText = isField(event) && event.clipboardData.getData('text/plain'); // cells and words bring a picture of themselves
    if (isText || !given.files.length) return;
    event.preventDefault();
    searchWith(given);
  });
  const over = (is) => document.body.classList.toggle('dropping', is);
  const hasFiles = (event) => event.dataTransfer.types.includes('Files');
  addEventListener('dragover', (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    over(true);
  });
  addEventListener('dragleave', (event) => event.relatedTarget === null && over(false));
  addEventListener('drop', (event) => {
    over(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    searchWith(files(event.dataTransfer));
  });

  function chip(term, at) {
    const name = term.text ?? (term.crop ? 'part of a picture' : 'picture');
    const change = (changes) => app.update({ terms: app.state.terms.with(at, { ...term, ...changes }) });
    const remove = () => app.update({ terms: app.state.terms.toSpliced(at, 1) });
    const isLess = term.weight < 0;
    const shown = term.text !== undefined
      ? h('input', { type: 'text', value: term.text, size: Math.min(30, Math.max(6, term.text.length)), 'aria-label': 'Words of the term',
        onchange: (event) => (event.target.value.trim() ? change({ text: event.target.value.trim() }) : remove()) })
      : h('span', { className: 'sample' }, sample(term), ...(term.crop ? [h('small', {}, 'part')] : []));
    return h('li', { className: isLess ? 'less' : '' },
      tool(isLess ? '−' : '+', isLess ? `Less of ${name}: make it more` : `More of ${name}: make it less`, () => change({ weight: -term.weight })),
      shown,
      h('input', { type: 'number', min: 0, max: 10, step: 0.1, value: Math.abs(term.weight), 'aria-label': `Weight of ${name}`,
        onchange: (event) => change({ weight: (isLess ? -1 : 1) * Math.min(10, Math.abs(+event.target.value) || 1) }) }),
      tool('×', `Remove ${name}`, remove));
  }

  /** What a term is like: an upload, an image, or the beginning of a text. */
  function sample({ like, upload }) {
    const picture = (src) => h('img', { src, alt: '', width: 40, height: 32 });
    if (upload) return picture(app.url(`/uploads/${upload}/thumbnail?width=160`));
    const place = h('span', { className: 'face' });
    if (isReady) {
      app.get(`/images/${encodeURIComponent(like)}`).then((row) => place.replaceChildren(row.modality === 'text'
        ? h('small', {}, `“${visible(row.text ?? row.name, true).slice(0, 40)}…”`) : picture(app.thumbnail(row, 160))), () => {});
    }
    return place;
  }

  let last = null;
  let isReady = false;
  function show() {
    if (last !== app.state.q) caption.value = last = app.state.q; // or else what is being typed stays
    terms.replaceChildren(...app.state.terms.map(chip));
    terms.hidden = !app.state.terms.length;
    const { conditions, where, area } = app.state;
    const count = conditions.length + !!where + !!area;
    toggle.textContent = count ? `☰ ${count}` : '☰';
    toggle.setAttribute('aria-label', `Filters and saved searches${count ? `, ${count} in use` : ''}`);
    trouble.textContent = '';
    written();
  }
  app.addEventListener('state', show);
  app.addEventListener('trouble', ({ detail }) => {
    if (detail.parameter?.startsWith('terms')) trouble.textContent = detail.detail;
  });
  app.addEventListener('ready', () => {
    isReady = true;
    show();
  });
  addEventListener('keydown', (event) => {
    if (event.key !== '/' || isField(event)) return;
    event.preventDefault();
    caption.focus();
  });
  show();
  if (matchMedia('(min-width: 700px)').matches && !app.state.id) caption.focus();
}

/** The files of a paste or drop, and how many folders are among them; to be asked within the event only. */
function files(transfer) {
  const items = [...(transfer?.items ?? [])].filter((each) => each.kind === 'file');
  const isFolder = (each) => each.webkitGetAsEntry?.()?.isDirectory;
  const folders = items.filter(isFolder).length;
  return { folders, files: items.filter((each) => !isFolder(each)).map((each) => each.getAsFile()).filter(Boolean) };
}

function turnTheme() {
  const isDark = getComputedStyle(document.documentElement).colorScheme === 'dark'
    || (!document.documentElement.dataset.theme && matchMedia('(prefers-color-scheme: dark)').matches);
  document.documentElement.dataset.theme = isDark ? 'light' : 'dark';
  localStorage.setItem('theme', document.documentElement.dataset.theme);
}

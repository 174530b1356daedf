/** An element: attributes by name, listeners by `on...`, children as nodes or text. Text is never read as markup. */
export function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== 'list') made[name] = value;
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** A name with escapes for what nobody sees and what could make it look otherwise, as `base/visible.py` has them. */
export function visible(name) {
  return name.replace(/(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu,
    (mark) => `\\u${mark.codePointAt(0).toString(16).padStart(4, '0')}`);
}

/** A size in CSS pixels that a canvas follows, with `draw` after each change; returns a function that ends it. */
export function followSize(canvas, draw) {
  const observer = new ResizeObserver(() => {
    const scale = devicePixelRatio;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale));
    draw();
  });
  observer.observe(canvas);
  return () => observer.disconnect();
}

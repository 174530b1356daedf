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

/** Text with escapes for what nobody sees and what could make it look otherwise, as `base/visible.py` has them; line
 *  breaks and tabs stay if it `hasLines`. */
export function visible(text, hasLines = false) {
  return text.replace(/(?![ \u200c\u200d])[\p{Cc}\p{Cf}\p{Z}\p{Cs}\p{Co}\p{Cn}]/gu, (mark) => {
    if (hasLines && '\t\r\n'.includes(mark)) return mark;
    const [code, letter, digits] = [mark.codePointAt(0), 'xuU', [2, 4, 8]];
    const size = code < 0x100 ? 0 : code < 0x10000 ? 1 : 2;
    return `\\${letter[size]}${code.toString(16).padStart(digits[size], '0')}`;
  });
}

/** What a picture is called: its caption, or the name of its file. */
export function titleOf({ caption, name }) {
  return caption === undefined || caption === null ? visible(name) : visible(caption, true);
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

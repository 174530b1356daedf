/** A part beside the results, which on a small screen is a modal dialog that fills it: the browser then keeps the focus in it. */
const wide = matchMedia('(min-width: 900px)');

export const isWide = () => wide.matches;

/** `element` is a dialog; `leave` is called when the browser asks to close it, as by the key or gesture for going back. */
export function sheet(element, leave) {
  const place = () => {
    if (isWide()) {
      element.open = true; // show() would take the focus
      element.removeAttribute('aria-modal');
    } else {
      element.showModal();
      element.setAttribute('aria-modal', 'true');
    }
  };
  element.addEventListener('cancel', (event) => {
    event.preventDefault();
    leave();
  });
  wide.addEventListener('change', () => {
    if (!element.open) return;
    element.close();
    place();
  });
  return { open: () => element.open || place(), close: () => element.close() };
}

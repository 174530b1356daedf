/** Pictures as the query: files that were chosen, pasted or dropped are uploaded. Uses of `app`: state, update, tell. */
import { request } from './api.js';
import { visible } from './element.js';

const MOST = 8;

/** Search with files; returns what is to be said about those that could not be used. */
export async function searchWith(app, { files, folders }) {
  const said = [];
  if (folders) said.push('A folder cannot be used: choose pictures in it.');
  if (files.length > MOST) said.push(`Only the first ${MOST} of ${files.length} files are used.`);
  const terms = [];
  app.tell('searching', true);
  for (const file of files.slice(0, MOST)) {
    try {
      const { id } = await request('POST', '/uploads', file, { type: 'application/octet-stream' }); // its bytes say what it is
      if (!terms.some((term) => term.upload === id)) terms.push({ upload: id, weight: 1 });
    } catch (error) {
      said.push([`${visible(file.name)}: ${error.detail}`, error.hint].filter(Boolean).join(' '));
    }
  }
  app.tell('searching', false);
  if (terms.length) app.update({ terms: [...app.state.terms.filter((term) => !term.upload), ...terms] });
  return said.join(' ');
}

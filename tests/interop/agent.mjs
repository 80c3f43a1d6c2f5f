// Stock Yjs editors in one process, driven by JSON lines: a request a line on standard input, an answer a line on
// standard output ({"id", "value"} or {"id", "error"}). tests/interop/agent.py is the other end.
//
// Room: yjs and y-websocket as anybody installs them, and no line about how the server works. Each editor has its own
// Y.Doc and its own socket; the providers never speak to each other in here (disableBc).
// Every document has four roots, named as their kinds: text, map, array, xml.

import { createHash } from 'node:crypto'
import { WebSocket } from 'ws'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'
import { collectComplaints, serve, until } from './requests.mjs'

const ROOTS = ['text', 'map', 'array', 'xml']
const BACKOFF_MS_MAX = 400 // a test that kills servers does not wait for the default 2.5 s
const editors = new Map()
const complaints = collectComplaints()
process.setMaxListeners(0) // each provider listens for the end of the process, and many live in here

// --- values ----------------------------------------------------------------------------------------------------------
// JSON with {"$": kind, ...} for a shared type, so that a request can nest them.
function build (value) {
  if (Array.isArray(value)) return value.map(build)
  if (value === null || typeof value !== 'object') return value
  switch (value.$) {
    case undefined: return value
    case 'text': return new Y.Text(value.of ?? '')
    case 'array': return Y.Array.from((value.of ?? []).map(build))
    case 'map': return new Y.Map(Object.entries(value.of ?? {}).map(([key, item]) => [key, build(item)]))
    case 'xmltext': return new Y.XmlText(value.of ?? '')
    case 'xml': {
      const element = new Y.XmlElement(value.name)
      for (const [key, item] of Object.entries(value.attributes ?? {})) element.setAttribute(key, item)
      if (value.children?.length) element.insert(0, value.children.map(build))
      return element
    }
    case 'bytes': return Uint8Array.from(Buffer.from(value.of, 'base64'))
    default: throw new Error(`unknown kind of value: ${value.$}`)
  }
}

function show (type) {
  if (type instanceof Y.XmlFragment || type instanceof Y.XmlText) return type.toString()
  if (type instanceof Y.Text) return type.toDelta()
  return type.toJSON()
}

function target (editor, path) {
  let at = editor.roots[path[0]]
  for (const step of path.slice(1)) at = at.get(step)
  if (at === undefined) throw new Error(`nothing at ${path.join('/')}`)
  return at
}

const EDITS = {
  insert: (at, index, value, attributes) =>
    at instanceof Y.Text ? at.insert(index, value, attributes ?? undefined) : at.insert(index, build(value)),
  append: (at, value) => at instanceof Y.Text ? at.insert(at.length, value) : at.insert(at.length, build(value)),
  embed: (at, index, value) => at.insertEmbed(index, value),
  format: (at, index, length, attributes) => at.format(index, length, attributes),
  delete: (at, index, length) => at.delete(index, length),
  set: (at, key, value) => at.set(key, build(value)),
  unset: (at, key) => at.delete(key),
  attribute: (at, key, value) => value === null ? at.removeAttribute(key) : at.setAttribute(key, value)
}

// --- what can be asked and waited for --------------------------------------------------------------------------------
const VIEWS = {
  json: (editor) => Object.fromEntries(ROOTS.map((name) => [name, show(editor.roots[name])])),
  text: (editor) => editor.roots.text.toString(),
  length: (editor) => editor.roots.text.length,
  hash: (editor) => createHash('sha256').update(editor.roots.text.toString(), 'utf8').digest('hex'),
  at: (editor, path) => show(target(editor, path)),
  synced: (editor) => editor.provider.synced,
  connected: (editor) => editor.provider.wsconnected,
  events: (editor) => editor.events,
  closes: (editor) => editor.closes,
  clock: (editor) => Y.getState(editor.doc.store, editor.doc.clientID),
  pending: (editor) => editor.doc.store.pendingStructs !== null || editor.doc.store.pendingDs !== null,
  state: (editor) => Buffer.from(Y.encodeStateAsUpdate(editor.doc)).toString('base64'),
  vector: (editor) =>
    Object.fromEntries([...Y.getStateVector(editor.doc.store)].sort(([a], [b]) => a - b)),
  awareness: (editor) =>
    Object.fromEntries([...editor.provider.awareness.getStates()].sort(([a], [b]) => a - b))
}

function view (editor, name, args) {
  if (!Object.hasOwn(VIEWS, name)) throw new Error(`unknown view: ${name}`)
  return VIEWS[name](editor, ...args)
}

// --- requests --------------------------------------------------------------------------------------------------------
const OPS = {
  open ({ name, url, room, clientID, connect = true }) {
    if (editors.has(name)) throw new Error(`${name} is open already`)
    const doc = new Y.Doc()
    if (clientID !== undefined) doc.clientID = clientID
    const roots = {
      text: doc.getText('text'),
      map: doc.getMap('map'),
      array: doc.getArray('array'),
      xml: doc.getXmlFragment('xml')
    }
    const editor = { doc, roots, events: [], closes: [], undo: null }
    editor.provider = new WebsocketProvider(url, room, doc, {
      WebSocketPolyfill: WebSocket, connect, disableBc: true, maxBackoffTime: BACKOFF_MS_MAX
    })
    editor.provider.on('sync', (state) => editor.events.push({ synced: state, length: roots.text.length }))
    editor.provider.on('connection-close', (event) => {
      editor.closes.push(event === null ? null : { code: event.code, reason: event.reason })
    })
    editors.set(name, editor)
    return doc.clientID
  },
  close ({ name }) {
    const editor = one(name)
    editors.delete(name)
    editor.provider.destroy()
    editor.doc.destroy()
    return null
  },
  // One transaction for all edits, so that a request is one update; `apart`: one each.
  edit ({ name, edits, apart = false }) {
    const editor = one(name)
    const run = ([verb, path, ...args]) => {
      if (!Object.hasOwn(EDITS, verb)) throw new Error(`unknown edit: ${verb}`)
      EDITS[verb](target(editor, path), ...args)
    }
    if (apart) for (const edit of edits) editor.doc.transact(() => run(edit), editor)
    else editor.doc.transact(() => edits.forEach(run), editor)
    return null
  },
  // Characters one by one, a transaction each, letting the socket breathe: somebody types.
  async type ({ name, text, pause_ms: pauseMs = 0 }) {
    const editor = one(name)
    for (const character of text) {
      editor.doc.transact(() => editor.roots.text.insert(editor.roots.text.length, character), editor)
      await new Promise((resolve) => pauseMs > 0 ? setTimeout(resolve, pauseMs) : setImmediate(resolve))
    }
    return editor.roots.text.length
  },
  paste ({ name, index, piece, times }) {
    const editor = one(name)
    const text = piece.repeat(times)
    editor.doc.transact(() => editor.roots.text.insert(index, text), editor)
    return { length: text.length, bytes: Buffer.byteLength(text) }
  },
  undoable ({ name, paths }) {
    const editor = one(name)
    const targets = paths.map((path) => target(editor, path))
    editor.undo = new Y.UndoManager(targets, { captureTimeout: 0, trackedOrigins: new Set([editor]) })
    return null
  },
  undo: ({ name }) => one(name).undo.undo() !== null,
  redo: ({ name }) => one(name).undo.redo() !== null,
  connect: ({ name }) => { one(name).provider.connect(); return null },
  disconnect: ({ name }) => { one(name).provider.disconnect(); return null },
  present: ({ name, state }) => { one(name).provider.awareness.setLocalState(state); return null },
  // The socket goes without a closing word, as when a lid is shut; the provider comes back by itself.
  drop: ({ name }) => { one(name).provider.ws?.terminate(); return null },
  read: ({ name, view: what, args = [] }) => view(one(name), what, args),
  until: (request) => until(() => view(one(request.name), request.view, request.args ?? []), request),
  complaints: () => complaints.splice(0)
}

function one (name) {
  const editor = editors.get(name)
  if (editor === undefined) throw new Error(`no editor is called ${name}`)
  return editor
}

serve(OPS)

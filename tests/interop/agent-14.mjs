// Stock editors of the next Yjs in one process: @y/y 14 and @y/websocket 4, as anybody installs them. Driven as
// agent.mjs is; a root has one type there, with children and attributes, and is a text, an array or a map by what is
// put into it.
//
// Which local updates the server has confirmed is judged as @y/websocket 4.0.0-rc.2 does it (`localUpdatesSynced` of its
// `sync-status`): by the ids of content that comes back in an update or a step 2. 4.0.0-3 does not have it yet.

import { createDecoder, readVarUint, readVarUint8Array } from 'lib0/decoding'
import { WebSocket } from 'ws'
import { WebsocketProvider } from '@y/websocket'
import * as Y from '@y/y'
import { collectComplaints, serve, until } from './requests.mjs'

const BACKOFF_MS_MAX = 400 // as in agent.mjs
const SYNC = 0
const editors = new Map()
const complaints = collectComplaints()
process.setMaxListeners(0)

const EDITS = {
  insert: (at, index, value) => at.insert(index, value), // a text, or a list of values
  append: (at, value) => at.insert(at.length, value),
  format: (at, index, length, attributes) => at.format(index, length, attributes),
  delete: (at, index, length) => at.delete(index, length),
  set: (at, key, value) => at.setAttr(key, value),
  unset: (at, key) => at.deleteAttr(key)
}

const VIEWS = {
  text: (editor) => editor.doc.get('text').toArray().join(''),
  array: (editor) => editor.doc.get('array').toArray(),
  map: (editor) => editor.doc.get('map').getAttrs(),
  synced: (editor) => editor.provider.synced,
  connected: (editor) => editor.provider.wsconnected,
  statuses: (editor) => editor.statuses,
  closes: (editor) => editor.closes,
  unconfirmed: (editor) => !editor.unconfirmed.inserts.isEmpty() || !editor.unconfirmed.deletes.isEmpty(),
  pending: (editor) => editor.doc.store.pendingStructs !== null || editor.doc.store.pendingDs !== null
}

function view (editor, name) {
  if (!Object.hasOwn(VIEWS, name)) throw new Error(`unknown view: ${name}`)
  return VIEWS[name](editor)
}

// What a frame brings, where it is an update or a step 2.
function idsWithin (frame) {
  const decoder = createDecoder(new Uint8Array(frame))
  if (readVarUint(decoder) !== SYNC || readVarUint(decoder) === 0) return Y.createContentIds()
  return Y.createContentIdsFromUpdate(readVarUint8Array(decoder))
}

// A polyfill that looks on: the provider sets `onmessage`, and this hears the same frames.
function listening (hear) {
  return class extends WebSocket {
    constructor (...args) {
      super(...args)
      this.addEventListener('message', ({ data }) => hear(data))
    }
  }
}

const OPS = {
  open ({ name, url, room, connect = true }) {
    if (editors.has(name)) throw new Error(`${name} is open already`)
    const doc = new Y.Doc()
    const editor = { doc, statuses: [], closes: [], unconfirmed: Y.createContentIds() }
    const hear = (frame) => { editor.unconfirmed = Y.excludeContentIds(editor.unconfirmed, idsWithin(frame)) }
    editor.provider = new WebsocketProvider(url, room, doc, {
      WebSocketPolyfill: listening(hear), connect, disableBc: true, maxBackoffTime: BACKOFF_MS_MAX
    })
    editor.provider.on('status', ({ status }) => editor.statuses.push(status))
    editor.provider.on('connection-close', (event) => {
      editor.closes.push(event === null ? null : { code: event.code, reason: event.reason })
    })
    doc.on('update', (update, origin) => {
      if (origin === editor.provider) return
      editor.unconfirmed = Y.mergeContentIds([editor.unconfirmed, Y.createContentIdsFromUpdate(update)])
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
  // Answers whether anything is unconfirmed right behind the edit, before a frame can have come.
  edit ({ name, edits, apart = false }) {
    const editor = one(name)
    const run = ([verb, [root], ...args]) => {
      if (!Object.hasOwn(EDITS, verb)) throw new Error(`unknown edit: ${verb}`)
      EDITS[verb](editor.doc.get(root), ...args)
    }
    if (apart) for (const edit of edits) editor.doc.transact(() => run(edit), editor)
    else editor.doc.transact(() => edits.forEach(run), editor)
    return view(editor, 'unconfirmed')
  },
  connect: ({ name }) => { one(name).provider.connect(); return null },
  disconnect: ({ name }) => { one(name).provider.disconnect(); return null },
  drop: ({ name }) => { one(name).provider.ws?.terminate(); return null },
  read: ({ name, view: what }) => view(one(name), what),
  until: (request) => until(() => view(one(request.name), request.view), request),
  complaints: () => complaints.splice(0)
}

function one (name) {
  const editor = editors.get(name)
  if (editor === undefined) throw new Error(`no editor is called ${name}`)
  return editor
}

serve(OPS)

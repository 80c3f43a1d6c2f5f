// Writes stock_updates.json: updates as stock Yjs 13 makes them (13.6.33), v1 and the same ones as V2.
// Run with the package yjs beside it: node stock_updates.mjs > stock_updates.json
import * as Y from 'yjs'

const hex = (update) => Buffer.from(update).toString('hex')
const v1 = {}

function record(name, edit, gc = true) {
  const doc = new Y.Doc({ gc })
  doc.clientID = 2864434397
  const updates = []
  doc.on('update', (update) => updates.push(update))
  edit(doc)
  updates.forEach((update, at) => { v1[`${name} ${at}`] = hex(update) })
  v1[`${name}, all`] = hex(Y.encodeStateAsUpdate(doc))
  v1[`${name}, merged`] = hex(Y.mergeUpdates(updates))
  if (updates.length > 2) v1[`${name}, with a hole`] = hex(Y.mergeUpdates([updates[0], updates.at(-1)]))
}

record('text', (doc) => {
  const text = doc.getText('text')
  text.insert(0, 'hello \u{1F600} world')
  text.insert(5, 'é日本')
  text.delete(2, 3)
  text.format(0, 4, { bold: true, color: '#fff', link: { href: 'x' } })
  text.insertEmbed(2, { image: 'x', n: [1, 2, { a: null }] })
  text.insert(0, 'q', { i: null })
  text.delete(7, 2)
})
record('split surrogate pair', (doc) => {
  const text = doc.getText('text')
  text.insert(0, 'a\u{1F600}b')
  text.insert(2, 'x')
  text.delete(1, 1)
})
record('lone surrogate', (doc) => doc.getText('text').insert(0, 'a\ud800b'))
record('map', (doc) => {
  const map = doc.getMap('map')
  map.set('u', undefined)
  map.set('n', null)
  map.set('big', 12345678901234567n)
  map.set('neg', -0)
  map.set('f', 1.5)
  map.set('g', 0.1)
  map.set('i', 2 ** 40)
  map.set('i', -(2 ** 52))
  map.set('max', Number.MAX_SAFE_INTEGER)
  map.set('b', new Uint8Array([1, 2, 255]))
  map.set('o', { a: { b: [1, [2, [3]]], u: undefined }, '日': true })
  map.set('nan', NaN)
  map.set('inf', Infinity)
  map.delete('f')
  map.set('m', new Y.Map([['k', new Y.Array()]]))
  map.get('m').get('k').push([1, 'x', false])
  map.set('m', 1)
})
record('array', (doc) => {
  const array = doc.getArray('array')
  array.push([1, 2, 'x', null, true, { q: undefined }])
  array.insert(2, [new Y.Text('n'), new Y.Map()])
  array.delete(1, 3)
  array.insert(0, [new Uint8Array(3)])
})
record('xml', (doc) => {
  const xml = doc.getXmlFragment('xml')
  const element = new Y.XmlElement('p')
  element.setAttribute('class', 'c')
  xml.insert(0, [element, new Y.XmlText('hi')])
  element.insert(0, [new Y.XmlText('in'), new Y.XmlElement('b')])
  element.removeAttribute('class')
  xml.delete(0, 1)
  doc.getArray('fragments').insert(0, [new Y.XmlFragment()])
})
record('subdocument', (doc) => {
  const map = doc.getMap('map')
  map.set('d', new Y.Doc({ guid: 'g', meta: { a: 1 }, autoLoad: true }))
  map.set('e', new Y.Doc({ guid: 'h' }))
})
record('without gc', (doc) => {
  const array = doc.getArray('array')
  array.push([1, 2, 3])
  array.delete(0, 2)
  const text = doc.getText('text')
  text.insert(0, 'abc')
  text.delete(1, 1)
}, false)
record('undo', (doc) => {
  const text = doc.getText('text')
  const undo = new Y.UndoManager(text, { captureTimeout: 0 })
  text.insert(0, 'abc')
  text.insert(1, 'd')
  text.delete(0, 2)
  undo.undo()
  undo.undo()
  undo.redo()
})
record('collected', (doc) => {
  const map = doc.getMap('map')
  map.set('a', new Y.Array())
  map.get('a').push([new Y.Text('x'), 1, 2])
  map.delete('a')
  map.set('a', 2)
})

const ada = new Y.Doc()
const ben = new Y.Doc()
ada.clientID = 1
ben.clientID = 4294967295
ada.getText('text').insert(0, 'abc')
Y.applyUpdate(ben, Y.encodeStateAsUpdate(ada))
ben.getText('text').insert(1, 'xyz')
ben.getText('text').delete(2, 3)
Y.applyUpdate(ada, Y.encodeStateAsUpdate(ben))
ada.getText('text').delete(0, 2)
v1['two clients'] = hex(Y.encodeStateAsUpdate(ada))
v1['nothing new'] = hex(Y.encodeStateAsUpdate(ben, Y.encodeStateVector(ada)))
v1['nothing'] = hex(Y.encodeStateAsUpdate(new Y.Doc()))

const v2 = Object.fromEntries(
  Object.entries(v1).map(([name, text]) => [name, hex(Y.convertUpdateFormatV1ToV2(Buffer.from(text, 'hex')))]),
)
console.log(JSON.stringify({ v1, v2 }, null, 1))

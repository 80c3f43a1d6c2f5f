"""Every number that bounds something: name (unit last but for min/max), value, reason. Reaching one is an error."""

from __future__ import annotations

from typing import Final

# --- names -----------------------------------------------------------------------------------------------------------
DOCUMENT_ID_BYTES_MAX: Final = 256  # three times that, percent-encoded, stays far below NATS' 4 kB control line
CONTEXT_TEXT_BYTES_MAX: Final = 256  # actor, causation, correlation, edge name: each is one NATS header
REASON_BYTES_MAX: Final = 1024  # why the other end refuses: a sentence and a document id; longer ones are cut

# --- who may ---------------------------------------------------------------------------------------------------------
TOKEN_BYTES_MAX: Final = 8 * 1024  # a JWT with a hundred rules is 6 kB; also what a header may be long
RULES_MAX: Final = 100  # in one token: each is tried at the opening of a document
ADMIT_MS_MAX: Final = 5_000  # for a first message with a token; a browser sends it at once
UNADMITTED_FRAME_BYTES_MAX: Final = 16 * 1024  # before that: a token, and nothing else is read
CLOCK_SKEW_S: Final = 30  # between who makes tokens and an edge, for "not before" alone

# --- what one client may send ----------------------------------------------------------------------------------------
FRAME_BYTES_MAX: Final = 16 * 1024 * 1024  # a 5 MB paste and a day offline fit; a gigabyte does not
PIECE_BYTES: Final = 4 * 1024 * 1024  # of what a client has to send and is larger than a frame: others get a word in
LARGE_FRAME_BYTES: Final = 2 * 1024  # above it, checked in a thread, taken in pieces: 680 deleted ranges hold 60 ms
STATE_VECTOR_CLIENTS_MAX: Final = 100_000  # about 1 MB of bytes; pycrdt allocates by the claimed count
AWARENESS_ENTRIES_MAX: Final = 1_000  # one message; a tab speaks for itself, a provider for a few
AWARENESS_STATE_BYTES_MAX: Final = 64 * 1024  # a cursor is 200 bytes
PRESENCE_ENTRIES_MAX: Final = 5_000  # per document
PRESENCE_BYTES_MAX: Final = 8 * 1024 * 1024  # all states of a document; 5,000 of the largest would be 320 MB
PRESENCE_JOIN_MS: Final = 30  # between two messages of who is here and where: a screen shows some such steps a second
PRESENCE_PAYLOAD_BYTES_MAX: Final = 512 * 1024  # one awareness message between edges: half of NATS' max_payload

CLIENT_MESSAGES_PER_S: Final = 5_000  # of one connection, for long; typing is 10, a replay at full speed some thousands
CLIENT_MESSAGES_BURST: Final = 50_000  # at once: a day offline, sent again
CLIENT_BYTES_PER_S: Final = 16 * 1024 * 1024  # one frame of the largest size a second
CLIENT_BYTES_BURST: Final = 128 * 1024 * 1024
FLOOD_MS_MAX: Final = 120_000  # slowed down without a break for so long, it is no burst: closed, "retry after"
FLOOD_RETRY_S: Final = 30  # what is said then

# --- updates (facts 1.7) ------------------------------------------------------------------------------------------
UPDATE_BYTES_MAX: Final = 64 * 1024 * 1024  # a whole state of a 10-million-character document fits
EDGE_FRAME_BYTES_MAX: Final = UPDATE_BYTES_MAX + 4096  # from an edge: a document's whole state comes in one frame
UPDATE_STRUCTS_MAX: Final = 4_000_000  # one struct costs pycrdt about 100 bytes of memory
UPDATE_VALUES_MAX: Final = 4_000_000  # Any values and deleted ranges of one update: 20-30 bytes each in pycrdt
UPDATE_DEPTH_MAX: Final = 64  # nested Any values: 26,500 levels kill the decoder
SLICE_STRUCTS: Final = 1_000  # of an update, applied at once: 0.6 ms; pycrdt is quadratic (150,000 take it 51 s)
SLICE_BYTES: Final = 16 * 1024  # the same, of many small updates
WHOLE_BYTES: Final = 1024 * 1024  # of a state, loaded in one call of pycrdt: 60 ms; cut takes Python 0.1 s a MB
SLICE_RANGES: Final = 250  # deleted ranges applied at once: up to 25 ms, in a document of 300,000 pieces
SPLIT_DOCUMENT_BYTES: Final = 300 * 1024  # of a document; above it, what Yrs copies to cut a struct in two is counted
SPLIT_BYTES: Final = 32 * 1024 * 1024  # copied so at once: 16 to 27 ms where memory is fresh, a tenth where it is not
SPLIT_UNITS: Final = 8 * 1024  # a stretch of clocks that costs nothing: a thousand of them are 24 MB
SPLIT_FRAME_BYTES: Final = 48  # in such a document: no keystroke is longer; 11 deleted ranges of 10 MB hold 90 ms
NESTING_MAX: Final = 1_000  # shared types within shared types, in a document: deleting 31,000 levels ends a process
CLOCK_MAX: Final = 2**31 - 1  # Yrs keeps clocks in 32 bits
CLIENT_ID_MAX: Final = 2**53 - 1  # JavaScript's safe integers

# --- documents -------------------------------------------------------------------------------------------------------
EARLY_COUNT_MAX: Final = 1_000  # updates set aside per document
EARLY_BYTES_MAX: Final = 16 * 1024 * 1024  # one frame of the largest size
EARLY_MS_MAX: Final = 2_000  # then state is exchanged with whoever sent it
EARLY_REPAIRS_MAX: Final = 3  # exchanges before an early update is given up and its sender told
DOT_RANGES_MAX: Final = 4_096  # per document; the smallest are forgotten first: that costs repeated work, nothing else
CONTENTS_DEPTH_MAX: Final = 256  # shared types within shared types, read as JSON; 30,000 overflow Rust's stack
MERGE_FAN_IN: Final = 16  # merge_updates panics over 21 and more that overlap in part (an inconsistent sort in Yrs)

PROBED_CLIENTS: Final = 1_000  # asked for again in one question, where an edge and its leader differ: 50 kB at most
COMPARED_CLOCKS: Final = 32  # per client, where an update brings what is here: two writers differ at the end

# --- an edge ---------------------------------------------------------------------------------------------------------
CHANNELS_MAX: Final = 1_000  # documents open on one connection of the extension
LOOK_MS: Final = 1_000  # between two looks at a quiet document's time limits, which are seconds and more
COMMIT_LAZY_MS: Final = 100  # what the log has already waits so long for a commit that somebody else needs
CONNECTION_BYTES: Final = 25_000  # a budget, not a bound: of one with a document to itself, which is empty
READER_SLOW_BYTES: Final = 256 * 1024  # unsent to one client: nothing more is queued; 10,000 who do not read: 2.5 GiB
READER_DRAINED_BYTES: Final = 32 * 1024  # so little is left of it: brought up to date by one difference
READER_KEPT_BYTES_MAX: Final = 1024 * 1024  # kept for one that is slow and cannot be made again: 15,000 answers
READER_LOOK_BYTES_MAX: Final = 64 * 1024  # a larger update is not read to see what a slow reader missed: 10 ms
READER_BYTES_MAX: Final = 32 * 1024 * 1024  # not read by one client, of single large differences; then it is closed
PENDING_BYTES_MAX: Final = 32 * 1024 * 1024  # not yet flushed, per document
LOADING_FRAMES_MAX: Final = 10_000  # held per document until it is loaded: four clients' reads of nothing but typing
LOADING_BYTES_MAX: Final = 64 * 1024 * 1024  # of them
WAITING_BYTES_HELD: Final = 1024 * 1024  # of a connection, behind a large frame or a load; then it is not read
LOADING_FRAMES_HELD: Final = 100  # so many, and who sends one more is not read until it is loaded
CONNECTIONS_MAX: Final = 10_000  # of one edge: 15 kB each, and as many files as a process is usually allowed at most
DOCUMENT_CLIENTS_MAX: Final = 5_000  # connections on one document: each update is written to all of them
DOCUMENT_BYTES_MAX: Final = 256 * 1024 * 1024  # of a document's state and rows: 40 million characters
DOCUMENTS_BYTES_MAX: Final = 1024 * 1024 * 1024  # of all documents in memory, as stored; pycrdt takes a few times that
OUTBOX_COUNT_MAX: Final = 10_000_000  # rows on disk, about 1-2 GB: months of full-time typing offline
OUTBOX_BYTES_MAX: Final = 16 * 1024 * 1024 * 1024  # of updates in them: a disk of an ordinary machine takes that
OUTBOX_WARN_PERCENT: Final = 80  # in the log, every minute, before nothing more is taken
OUTBOX_WARN_MS: Final = 60_000
STALL_MS: Final = 100  # the event loop did nothing else for so long: counted, and named in the status
OUTBOX_WINDOW_COUNT: Final = 1_000  # changes in flight to the log at once; the rest wait on disk
OUTBOX_WINDOW_BYTES: Final = 16 * 1024 * 1024
OUTBOX_PAGE_COUNT: Final = 4_000  # rows read from the disk at once: joined in 10 ms, an hour of full-time typing
OUTBOX_PAGE_BYTES: Final = 256 * 1024  # the same: to merge them holds the loop for 50 ms at worst
RUN_BYTES_MAX: Final = 256 * 1024  # rows that go out as one change: a quarter of NATS' max_payload
RUN_COVERS_MAX: Final = 200  # ranges of their names and of what they covered: an edge's rows are one, a client's edits
PUBLISH_MS_MAX: Final = 5_000  # no acknowledgement from the log: publish again (the dot makes it one)
RETRY_MS_MIN: Final = 100
RETRY_MS_MAX: Final = 10_000
SYNC_MS_MAX: Final = 5_000  # no answer from the leader: ask again
SYNC_IN_FLIGHT_MAX: Final = 32  # sync requests of one edge at once
LINE_COUNT_MAX: Final = 1_000  # broadcasts of a document behind one that is being looked at: it takes a second at most
LINE_BYTES_MAX: Final = 16 * 1024 * 1024  # the same; what finds no room is asked for instead
LINE_TURN_COUNT: Final = 20  # small ones of them, taken in one turn of the loop: 2 ms
FIRST_OPEN_MS_MAX: Final = 3_000  # how long the first open of an unknown document waits for the leader
DOCUMENT_IDLE_MS: Final = 30_000  # no client, no outbox: leaves memory
COMPACT_ROWS: Final = 500  # update rows of one document before its state replaces them
COMPACT_BYTES: Final = 4 * 1024 * 1024
RECHECK_MS: Final = 60_000  # a document in use is compared with the leader: a broadcast may be lost with its leader
RECHECK_OUTBOX_MS: Final = 10_000  # the same, while the log has changes of this edge that no leader has confirmed
HEAL_ATTEMPTS_MAX: Final = 5  # repeated healing of one document in one epoch, then it is reported as diverged
REPAIRS_WAITING_MAX: Final = 8  # per document, while it is being loaded; the leader asks again
HEAL_PAUSE_MS: Final = 5_000
STORE_CHECK_BYTES_MAX: Final = 256 * 1024 * 1024  # read whole after an unclean close: a second or two at start

REJECTED_COUNT_MAX: Final = 10_000  # edits that an edge remembers as rejected: their clients may be away for a while
WAITERS_MAX: Final = 1_000  # reads per document that wait for a token
WAIT_MS_MAX: Final = 300_000  # how long one may wait; longer is a reason to ask again

# --- presence --------------------------------------------------------------------------------------------------------
PRESENCE_MS_MAX: Final = 30_000  # y-protocols' own time-out: a state not renewed is gone

# --- the leader ------------------------------------------------------------------------------------------------------
LANE_COUNT_MAX: Final = 20_000  # changes of one document waiting for it to load
FOLDED_BYTES: Final = 16 * 1024  # of the log, checked and folded on the loop at once: 10 ms of tiny JSON values
LOAN_BYTES: Final = 256 * 1024  # of changes folded elsewhere at once, and merged for one broadcast: 70 ms of small ones
DIGESTED_BYTES: Final = 128 * 1024  # of snapshot and changes, digested on the loop: 60,000 deleted ranges, 30 ms
LOAN_COUNT: Final = 1_000  # the same: `_folded` takes 10 us each
SNAPSHOT_CHANGES: Final = 1_000  # changes of a document before a new snapshot
SNAPSHOT_BYTES: Final = 2 * 1024 * 1024
SETTLE_MS: Final = 100  # events and acknowledgements of so long are sent together
UNSETTLED_COUNT_MAX: Final = 2_000  # broadcast and not acknowledged: a tenth of what the consumer lets be pending
EVENT_CHANGES_MAX: Final = 500  # of one event: some 100 kB of JSON
BEACON_MS: Final = 2_000
BEACON_SPAN_MS: Final = 20_000  # how long a change is told again: ten beacons, any one of them is enough
SNAPSHOT_IDLE_CHANGES: Final = 50  # a document that leaves memory with more than these gets a snapshot
EMITTED_DOCS_MAX: Final = 10_000  # documents whose events are remembered, the longest unused forgotten first
COMPARE_MS: Final = 3 * BEACON_MS  # an edge with an empty outbox asks whether all is equal, unless a beacon says so
BEACON_DOCS_MAX: Final = 200  # documents in one beacon
LEADER_IDLE_MS: Final = 120_000  # a document nobody changed or asked for leaves memory
REPAIR_MS: Final = 2_000  # between two askings for the same gap
LOAD_MS_MAX: Final = 20_000  # reading snapshot and log of a document: then try again

# --- NATS ------------------------------------------------------------------------------------------------------------
DOTS_HEADER_BYTES_MAX: Final = 2 * 1024  # longer dot sets travel in the payload: JetStream refuses headers over 64 kB
MESSAGE_HEADROOM_BYTES: Final = 16 * 1024  # headers count towards max_payload; nats-py dies just below it (facts 2.5)
SYNC_ANSWER_BYTES_MAX: Final = 512 * 1024 * 1024  # all parts of one answer together

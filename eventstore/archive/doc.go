// Package archive writes closed periods of a store to compressed files, which can be read, proved and made a store again.
//
//	report, err := archive.Write(ctx, engine, "archive/", before, nil)     every event recorded before that time
//	a, err := archive.Open("archive/")
//	for r, err := range a.All(ctx, archive.Query{Key: "P1"}) { … }        in the order of recording
//	report, err := a.Verify(ctx, nil)                                      and a.Join(ctx, engine)
//	report, err := archive.Restore(ctx, "archive/", "sqlite:old.db", nil)
//
// # The form
//
// An archive is a folder. Each file holds a run of offsets of one partition, as text lines compressed with zstd, so that
// "zstd -dc FILE | jq" reads it without carebus:
//
//	{"carebus":"archive","format":1,"partitions":12,"partition":3,"first":0,"before":"00…"}     a header
//	{"offset":0,"recordedAt":1795…,"stream":"…","streamVersion":1,"eventId":"…",…,"payload":{…}} an event per line
//	{"last":4095,"events":4096,"after":"5e…"}                                                   an end
//
// A payload stands there byte for byte as it is in the store. A record that cannot (its payload has line ends, or one of its
// texts is not UTF-8) is marked "base64": then the payload and all texts are in that form. recordedAt is in microseconds.
//
// before and after are the store's own hash chain (driver.Chain) at both ends of the run: so the chain is proved over all
// files, from the first event on, without the store, and where the store still has the last event, its hash must be the
// same. That is also how an archive knows its store: stores have no other name that could not be copied.
//
// manifest.json names the files with their SHA-256, offsets and times. A file that is not named there is no part of the
// archive. The chain proves everything but one thing: whoever can write to the folder can write another chain. Keep the
// last hashes (carebus archive list) in another place if you must prove that, or a store.
//
// # Crashes
//
// A file is written under another name, synced, read back, renamed, and the folder synced; then the manifest goes the same
// way. A crash at any point leaves the old manifest, whose files are all there, or the new one, whose files are all there.
// What is left of the file under way is removed by the next run, which goes on behind the last file named. Until a run is
// through, the manifest says so (Unfinished): its partitions may end at different times, and it is not restored.
//
// One process writes at a time; others are refused (ErrLocked). An archive only grows, and nothing in the store is changed:
// the archive of January is the beginning of the one of February.
package archive

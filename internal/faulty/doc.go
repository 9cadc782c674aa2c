// Package faulty is for tests of what a fault of the registry's storage leaves behind. A Driver wraps
// any storage driver and has one fault at one call:
//
//	storage := faulty.New(inmemory.New())
//	for n := 1; n <= calls; n++ {
//		storage.Inject(faulty.Fault{Kind: faulty.EndAfter, At: n})
//		… what is tested, in which storage.Ended() may become true
//		restarted := faulty.New(storage.StorageDriver) // as the next process sees the storage
//		… what must hold
//	}
//
// # Terms
//
//   - Call: one of an operation of the driver, or of Write, Commit, Cancel and Close of a writer. Calls
//     are counted as they begin, by all goroutines together. What is read of a Reader is no call.
//   - Fault: what happens at a call. It happens once, but for those of Kind FailFrom, EndBefore and
//     EndAfter.
//   - End: the process is gone. Within a test that means that its storage takes nothing any more:
//     what it still does leaves no trace. What it answers then, nobody has heard.
//   - Atomic: a driver that writes content whole or not at all. The registry's filesystem, inmemory,
//     S3, GCS and Azure drivers are. HalfSilently is for others, as is Half with PutContent.
package faulty

// Package saga runs work that takes several steps, in several places, over seconds or weeks, and that either completes
// or is undone.
//
//	var fulfilment = saga.Define("medication-fulfilment", 1,
//	    saga.Do("verify", verify),
//	    saga.Do("reserve", reserve).Compensate(release),
//	    saga.Call("claim", submitClaim, applyClaim).CompensateCall(voidClaim).Retry(saga.Backoff(5, time.Second, time.Minute)),
//	    saga.Await("adjudication", claimID,
//	        saga.On(payment.ClaimPaidV1, paidClaim, applyPaid),
//	        saga.On(payment.ClaimRejectedV1, rejectedClaim, refuse)).Timeout(72*time.Hour),
//	    saga.Do("fill", fill).Compensate(returnToStock),
//	    saga.Do("notify", notify).NoUndo())
//
//	err = saga.Register(ctx, platform, fulfilment)
//	err = fulfilment.StartTx(ctx, tx, "fulfilment-"+prescriptionID, Fulfilment{PrescriptionID: prescriptionID})
//
// # Steps
//
// [Do] runs in this database's transaction. [Call] asks somebody outside, with no transaction open. [Await] waits for an
// event. [Parallel] begins several at once. Consecutive Do steps run in one transaction, one after the other.
//
// A step fails for good by [Refuse], or when its tries are used up ([Step.Retry]); then what completed is undone, the
// last first ([Step.Compensate], [Step.CompensateCall]). A step that is [Step.NoUndo] does not undo the others: it is
// stuck, and a person resumes or skips it. So is a compensation whose tries are used up.
//
// [Definition.OnEnd] states facts of the domain's own when an instance has come to its end.
//
// # What is promised
//
// Every transition (a step done, failed, undone) is one transaction: the step's effects, the state it leaves, the events
// that tell it, the waits and timers that follow. A process may die at any point; another goes on from the last
// transition. Therefore:
//
//   - the effects of a Do, and of its compensation, happen exactly once; a try that fails leaves none;
//   - an outside call is made at least once, always with the same idempotency key ([CallKey]); its effect happens once
//     where the provider honours the key, and its answer is taken over once;
//   - steps are undone in exactly the reverse of the order in which they completed; a call under way when the saga turns
//     back is waited for, and undone if it succeeds;
//   - a call that fails without a clear no may have happened: [Step.UndoUnknown] has it undone nevertheless;
//   - an event that comes before its wait is not lost: events recorded since the instance began count, for seven days,
//     each once per instance. Of an event that starts an instance, "began" is when that event happened;
//   - a deadline that was stated stays: an event that comes after it is too late.
//
// What a Do keeps in memory, outside its state, is not undone with it; and the bus may run a transition anew.
//
// # How it runs
//
// The instances of a saga are carried on by the bus group "saga-NAME" and its calls are made by "saga-NAME-calls", so
// any number of processes share the work, by leases. Retries and deadlines are timers, which carebus.Platform runs; with a
// bus of your own run timer.Timers.Run beside it. Every transition is an event of type platform.saga.* in the stream "platform.saga/ID", with the correlation of
// the flow that started it. When an awaited event belongs to another flow, the steps after it are begun by an event of
// the saga's own.
//
// Calls of a group are made in small batches, and a batch is committed when its slowest call is back.
//
// # Versions
//
// An instance finishes under the version of the definition that it began with. A changed definition gets a new version
// and is registered beside the old ones until [Count] says that none of theirs is left. An instance of a version that no
// process knows is parked, says so, and is looked at again with growing pauses and whenever its version is registered.
// While an old and a new release run side by side this is what happens to the new version's instances that the old
// release is handed; they are late by a minute or so. A version that awaits a type of event that the former does not is
// started only when no process of the old release is left: those would pass over its events.
//
// # Protected data
//
// The state is kept as it is in the table carebus_sagas, and what an instance was started with is in its first event:
// carry ids rather than what they stand for.
//
// # Operating
//
// [List] and [Show] read rows; [Resume], [Skip] and [Cancel] are events with actor and reason.
package saga

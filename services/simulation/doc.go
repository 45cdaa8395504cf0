// Package simulation is the world around the services: a population with its records, prescribers who write prescriptions
// and answer the payer's questions, deliveries to the pharmacy, and patients who come for their medication or do not.
//
//	world := simulation.New(1, 1, 100, false)       // a seed, a run, how many patients, none with an unknown plan
//	err = simulation.Join(ctx, p)
//	err = world.Admit(ctx, p)                       // their records
//	err = world.Deliver(ctx, p, 1000)               // stock for so many prescriptions, of one drug too little
//	err = world.Prescribe(ctx, p, 1000)
//
// It does what people do, by the services' commands and by events, and knows nothing of how they work. The same seed and
// run give the same people and prescriptions, and everybody decides by the ids of what they decide about: a simulation that
// was killed goes on with what it was doing, and nothing happens twice.
//
// Names, prices and packages are invented; drugs and diagnoses have their real codes.
package simulation

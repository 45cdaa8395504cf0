// Package storetest gives tests a new, empty store on the engine that the environment names, so that the tests of a
// component run on every engine:
//
//	engine, err := storetest.Driver(t, filepath.Join(t.TempDir(), "test.db"), 0, nil)
//	platform, err := carebus.Open(ctx, storetest.New(t), nil)
//
// CAREBUS_TEST_ENGINE is "sqlite" (the default) or "postgres"; the latter needs CAREBUS_TEST_POSTGRES, the address of a
// server, which scripts/postgres starts and prints. What a test makes is removed when it ends.
//
// Tests of failures have a Cluster of their own to kill, and a Proxy whose connections they cut:
//
//	server := storetest.NewCluster(t)
//	address, proxy := storetest.Through(t, server.Address)
package storetest

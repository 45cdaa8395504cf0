package saga_test

func child(string) {}

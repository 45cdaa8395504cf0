package projection_test

func child(string) {}

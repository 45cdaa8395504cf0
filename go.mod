module github.com/carebus/carebus

go 1.26

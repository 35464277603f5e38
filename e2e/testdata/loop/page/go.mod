module example.com/loop/page

go 1.26.0
